//! A serde deserializer with Go's rules: struct keys match in any case, null is the zero value, the last of repeated keys
//! wins, unknown keys are ignored, errors name the path and the Go type.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::parse::Value;

/// A type error, in Go's words.
#[derive(Debug)]
pub(super) struct TypeError(String);

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

type Result<T> = std::result::Result<T, TypeError>;

/// Decodes a tree. `root` is the name of the outermost Go type.
pub(super) fn from_value<T: DeserializeOwned>(value: Value, root: &str) -> Result<T> {
    let path = Path::Root(root);
    T::deserialize(Go { value, path: &path })
}

/// The struct fields on the way to a value. Array positions and map keys are not part of it, as in Go.
enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'static str),
}

impl Path<'_> {
    fn fields(&self, out: &mut String) {
        if let Self::Field(parent, name) = self {
            parent.fields(out);
            out.push('.');
            out.push_str(name);
        }
    }
    fn root(&self) -> &str {
        match self {
            Self::Root(name) => name,
            Self::Field(parent, _) => parent.root(),
        }
    }
    /// `json: cannot unmarshal string into Go struct field .HostConfig.Memory of type int64`
    fn mismatch(&self, value: &Value, wanted: &str) -> TypeError {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(text) if is_numeric(wanted) => format!("number {text}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let mut fields = String::new();
        self.fields(&mut fields);
        TypeError(match fields.as_str() {
            "" => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
            _ => format!(
                "json: cannot unmarshal {found} into Go struct field {}{fields} of type {wanted}",
                self.root()
            ),
        })
    }
}

fn is_numeric(wanted: &str) -> bool {
    wanted.starts_with("int") || wanted.starts_with("uint") || wanted.starts_with("float")
}

struct Go<'a> {
    value: Value,
    path: &'a Path<'a>,
}

/// Deserializes a number by the type's Go name.
macro_rules! number {
    ($($method:ident $visit:ident $type:ty, $name:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            match &self.value {
                Value::Null => visitor.$visit(<$type>::default()),
                Value::Number(text) => match text.parse::<$type>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(self.path.mismatch(&self.value, $name)),
                },
                _ => Err(self.path.mismatch(&self.value, $name)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Go<'_> {
    type Error = TypeError;

    number! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        // Go's `int`: the width that our structs use for it.
        deserialize_i32 visit_i32 i32, "int";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint";
        deserialize_u64 visit_u64 u64, "uint64";
        deserialize_f32 visit_f32 f32, "float32";
        deserialize_f64 visit_f64 f64, "float64";
    }

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match &mut self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(text) => {
                if let Ok(n) = text.parse::<i64>() {
                    visitor.visit_i64(n)
                } else if let Ok(n) = text.parse::<u64>() {
                    visitor.visit_u64(n)
                } else {
                    visitor.visit_f64(text.parse().unwrap_or(f64::INFINITY))
                }
            }
            Value::String(text) => visitor.visit_string(std::mem::take(text)),
            Value::Array(items) => visitor.visit_seq(Items::new(std::mem::take(items), self.path)),
            Value::Object(members) => {
                visitor.visit_map(Members::new(std::mem::take(members), self.path))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(*b),
            _ => Err(self.path.mismatch(&self.value, "bool")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match &mut self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_string(std::mem::take(text)),
            _ => Err(self.path.mismatch(&self.value, "string")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match &mut self.value {
            Value::Null => visitor.visit_seq(Items::new(Vec::new(), self.path)),
            Value::Array(items) => visitor.visit_seq(Items::new(std::mem::take(items), self.path)),
            _ => Err(self.path.mismatch(&self.value, "[]string")),
        }
    }

    /// Go arrays have a fixed length: what is missing is zero, what is too much is ignored.
    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value> {
        let mut items = match &mut self.value {
            Value::Null => Vec::new(),
            Value::Array(items) => std::mem::take(items),
            _ => return Err(self.path.mismatch(&self.value, &format!("[{len}]uint"))),
        };
        items.resize(len, Value::Null);
        visitor.visit_seq(Items::new(items, self.path))
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match &mut self.value {
            Value::Null => visitor.visit_map(Members::new(Vec::new(), self.path)),
            Value::Object(members) => {
                visitor.visit_map(Members::new(std::mem::take(members), self.path))
            }
            _ => Err(self.path.mismatch(&self.value, "map[string]string")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match &mut self.value {
            Value::Null => visitor.visit_map(Fields::new(Vec::new(), fields, self.path)),
            Value::Object(members) => {
                visitor.visit_map(Fields::new(std::mem::take(members), fields, self.path))
            }
            _ => Err(self.path.mismatch(&self.value, name)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    /// Enums of plain names, from a string.
    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match &mut self.value {
            Value::String(text) => visitor.visit_enum(Name(std::mem::take(text))),
            _ => Err(self.path.mismatch(&self.value, "string")),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit_struct tuple_struct identifier
    }
}

struct Items<'a> {
    items: std::vec::IntoIter<Value>,
    path: &'a Path<'a>,
}

impl<'a> Items<'a> {
    fn new(items: Vec<Value>, path: &'a Path<'a>) -> Self {
        Self {
            items: items.into_iter(),
            path,
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = TypeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(value) = self.items.next() else {
            return Ok(None);
        };
        let path = self.path;
        seed.deserialize(Go { value, path }).map(Some)
    }
}

/// The members of a map: keys as they are, the last of repeated ones wins because serde's maps overwrite.
struct Members<'a> {
    members: std::vec::IntoIter<(String, Value)>,
    value: Option<Value>,
    path: &'a Path<'a>,
}

impl<'a> Members<'a> {
    fn new(members: Vec<(String, Value)>, path: &'a Path<'a>) -> Self {
        Self {
            members: members.into_iter(),
            value: None,
            path,
        }
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = TypeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((key, value)) = self.members.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let value = self.value.take().unwrap_or(Value::Null);
        let path = self.path;
        seed.deserialize(Go { value, path })
    }
}

/// The members of a struct, under the names that serde knows; unknown ones and nulls are left out.
struct Fields<'a> {
    fields: std::vec::IntoIter<(&'static str, Value)>,
    next: Option<(&'static str, Value)>,
    path: &'a Path<'a>,
}

impl<'a> Fields<'a> {
    fn new(
        members: Vec<(String, Value)>,
        known: &'static [&'static str],
        path: &'a Path<'a>,
    ) -> Self {
        let mut found: Vec<(&'static str, Value)> = Vec::new();
        for (key, value) in members {
            let Some(name) = known
                .iter()
                .find(|name| **name == key)
                .or_else(|| known.iter().find(|name| same_folded(name, &key)))
            else {
                continue;
            };
            match found.iter_mut().find(|(have, _)| have == name) {
                Some((_, slot)) => *slot = value,
                None => found.push((name, value)),
            }
        }
        found.retain(|(_, value)| *value != Value::Null);
        Self {
            fields: found.into_iter(),
            next: None,
            path,
        }
    }
}

/// Equal but for case. Go's folding also takes the Kelvin sign for a k and the long s for an s.
fn same_folded(a: &str, b: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        _ => c.to_ascii_lowercase(),
    };
    a.chars().map(fold).eq(b.chars().map(fold))
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = TypeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next = self.fields.next();
        match &self.next {
            None => Ok(None),
            Some((name, _)) => seed.deserialize((*name).into_deserializer()).map(Some),
        }
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let (name, value) = self.next.take().unwrap_or(("", Value::Null));
        let path = Path::Field(self.path, name);
        seed.deserialize(Go { value, path: &path })
    }
}

struct Name(String);

impl<'de> EnumAccess<'de> for Name {
    type Error = TypeError;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit)> {
        let name: de::value::StringDeserializer<TypeError> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = TypeError;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value> {
        Err(de::Error::custom("json: a name was expected"))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value> {
        Err(de::Error::custom("json: a name was expected"))
    }
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value> {
        Err(de::Error::custom("json: a name was expected"))
    }
}
