use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Outer {
    image: String,
    cmd: Option<Vec<String>>,
    tty: bool,
    labels: BTreeMap<String, String>,
    ports: BTreeMap<String, Empty>,
    host_config: Option<Inner>,
    console_size: [u16; 2],
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inner {
    memory: i64,
    binds: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct Empty {}

fn read(text: &str) -> std::result::Result<Outer, String> {
    from_slice(text.as_bytes(), "").map_err(|e| e.message)
}

#[test]
fn keys_fold_and_nulls_are_zero() {
    let got = read(
        r#"{"image":"a","IMAGE":"b","CMD":["x",null],"hostconfig":{"MEMORY":7,"binds":null},"Tty":null,
            "Labels":{"a":"1","A":"2","a":"3"},"ports":{"80/tcp":null},"ConsoleSize":[3],"unknown":{"x":[1,2]}}"#,
    )
    .unwrap();
    assert_eq!(got.image, "b");
    assert_eq!(got.cmd, Some(vec!["x".to_owned(), String::new()]));
    assert_eq!(
        got.host_config,
        Some(Inner {
            memory: 7,
            binds: vec![]
        })
    );
    assert_eq!(got.labels.len(), 2);
    assert_eq!(got.labels["a"], "3");
    assert_eq!(got.ports.len(), 1);
    assert_eq!(got.console_size, [3, 0]);
    assert_eq!(read("null").unwrap(), Outer::default());
    assert_eq!(read(" {} ").unwrap(), Outer::default());
}

#[test]
fn error_texts() {
    for (text, want) in [
        ("", "invalid JSON: EOF"),
        ("  ", "invalid JSON: EOF"),
        (r#"{"Image":"busybox""#, "invalid JSON: unexpected EOF"),
        (r#"{"Image":"busy"#, "invalid JSON: unexpected EOF"),
        ("{} x", "unexpected content after JSON"),
        ("{}{}", "unexpected content after JSON"),
        (
            "x",
            "invalid JSON: invalid character 'x' looking for beginning of value",
        ),
        (
            "{x}",
            "invalid JSON: invalid character 'x' looking for beginning of object key string",
        ),
        (
            r#"{"a":1,}"#,
            "invalid JSON: invalid character '}' looking for beginning of object key string",
        ),
        (
            r#"{"a" 1}"#,
            "invalid JSON: invalid character '1' after object key",
        ),
        (
            r#"{"a":1 2}"#,
            "invalid JSON: invalid character '2' after object key:value pair",
        ),
        (
            "[1 2]",
            "invalid JSON: invalid character '2' after array element",
        ),
        (
            "[1,]",
            "invalid JSON: invalid character ']' looking for beginning of value",
        ),
        (
            "trux",
            "invalid JSON: invalid character 'x' in literal true (expecting 'e')",
        ),
        (
            "\"a\nb\"",
            "invalid JSON: invalid character '\\n' in string literal",
        ),
        (
            r#""\x""#,
            "invalid JSON: invalid character 'x' in string escape code",
        ),
        (
            "-x",
            "invalid JSON: invalid character 'x' in numeric literal",
        ),
        (
            r#"{"HostConfig":{"Memory":"x"}}"#,
            "invalid JSON: json: cannot unmarshal string into Go struct field .HostConfig.Memory of type int64",
        ),
        (
            r#"{"HostConfig":{"Memory":1.5}}"#,
            "invalid JSON: json: cannot unmarshal number 1.5 into Go struct field .HostConfig.Memory of type int64",
        ),
        (
            r#"{"Tty":1}"#,
            "invalid JSON: json: cannot unmarshal number into Go struct field .Tty of type bool",
        ),
        (
            r#"{"cmd":"echo"}"#,
            "invalid JSON: json: cannot unmarshal string into Go struct field .Cmd of type []string",
        ),
        (
            r#"{"HostConfig":{"Memory":99999999999999999999}}"#,
            "invalid JSON: json: cannot unmarshal number 99999999999999999999 into Go struct field .HostConfig.Memory of type int64",
        ),
        (
            "[]",
            "invalid JSON: json: cannot unmarshal array into Go value of type Outer",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn depth_is_bounded_and_cheap() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    assert!(parse_body(deep.as_bytes()).is_ok());
    let deeper = "[".repeat(10_002) + &"]".repeat(10_002);
    assert_eq!(
        parse_body(deeper.as_bytes()).unwrap_err().message,
        "invalid JSON: exceeded max depth"
    );
    // Deep values in unknown places do not matter.
    let hidden = format!(r#"{{"Image":"x","Unknown":{deep}}}"#);
    assert_eq!(read(&hidden).unwrap().image, "x");
}

#[test]
fn strings_like_go() {
    for (text, want) in [
        (r#""\u00e9\ud83d\ude00""#, "é😀"),
        (r#""\ud83dx""#, "\u{fffd}x"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
        (r#""\/\b\f""#, "/\u{8}\u{c}"),
    ] {
        assert_eq!(from_slice::<String>(text.as_bytes(), "").unwrap(), want);
    }
    let bad = b"\"a\xff\xfeb\"";
    assert_eq!(from_slice::<String>(bad, "").unwrap(), "a\u{fffd}\u{fffd}b");
}

#[test]
fn output_like_go() {
    let value = BTreeMap::from([("b", "<a&b>"), ("a", "\u{2028}\n")]);
    assert_eq!(
        &to_line(&value)[..],
        b"{\"a\":\"\\u2028\\n\",\"b\":\"\\u003ca\\u0026b\\u003e\"}\n"
    );
}

#[test]
fn content_types() {
    for (given, want) in [
        ("application/json", None),
        ("application/json; charset=utf-8", None),
        ("Application/JSON", None),
        (
            "application/x-www-form-urlencoded",
            Some(
                "unsupported Content-Type header (application/x-www-form-urlencoded): must be 'application/json'",
            ),
        ),
        (
            "",
            Some("malformed Content-Type header (): mime: no media type"),
        ),
    ] {
        assert_eq!(media_type(given).err().map(|e| e.message).as_deref(), want);
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What we write, we and others read back.
    #[test]
    fn round_trip(value in any_json()) {
        let text = to_vec(&value);
        let ours: serde_json::Value = from_slice(&text, "").unwrap();
        prop_assert_eq!(&ours, &value);
        let theirs: serde_json::Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(&theirs, &value);
    }

    /// Any bytes give a value or an error, never a panic; and we accept what serde_json accepts.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let ours = parse_body(&bytes);
        if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() {
            prop_assert!(ours.is_ok());
        }
    }

    /// Near-JSON text: broken at any place.
    #[test]
    fn cut_text(value in any_json(), cut in 0usize..200) {
        let text = to_vec(&value);
        let cut = cut.min(text.len());
        let _ = parse_body(&text[..cut]);
        let _ = from_slice::<Outer>(&text[..cut], "");
    }

    /// A struct reads the same whatever the case of its keys.
    #[test]
    fn any_case(upper in prop::collection::vec(any::<bool>(), 6)) {
        let key: String = "memory".chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
        let got: Inner = from_slice(format!("{{{key:?}:5}}").as_bytes(), "").unwrap();
        prop_assert_eq!(got.memory, 5);
    }
}
