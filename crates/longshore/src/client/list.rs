//! `ps`, and how lists are printed: a table, a template, JSON, or ids alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    failure::{Done, Failure},
    http::{Client, query},
    image, ports,
    template::{self, Template},
    text::{ellipsis, emit, plain, quote, short_id, table},
};
use crate::{flags::Parsed, units};

/// `name=value` filters as the API wants them; empty for none.
///
/// # Errors
/// A filter without `=`.
pub fn filters(given: &[String]) -> Done<String> {
    let mut all: BTreeMap<String, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in given {
        let (name, value) = filter.split_once('=').ok_or_else(|| {
            Failure::usage(format_args!(
                "invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
            ))
        })?;
        all.entry(name.trim().to_lowercase())
            .or_default()
            .insert(value.trim(), true);
    }
    if all.is_empty() {
        return Ok(String::new());
    }
    Ok(json!(all).to_string())
}

/// Rows of named fields, and which of them the table shows.
pub struct Listing<'a> {
    pub rows: Vec<Value>,
    pub columns: Vec<&'a str>,
    /// Titles that differ from [`template::title`].
    pub titles: &'a [(&'a str, &'a str)],
    /// Print this field alone.
    pub quiet: Option<&'a str>,
}

impl Listing<'_> {
    /// Prints by `--format`.
    ///
    /// # Errors
    /// A template that cannot be evaluated.
    pub fn print(&self, format: &str) -> Done {
        let mut out = String::new();
        match (self.quiet, format) {
            (Some(field), "" | "table") => {
                for row in &self.rows {
                    out.push_str(&plain(&row[field]));
                    out.push('\n');
                }
            }
            (_, "json" | "{{json .}}") => {
                for row in &self.rows {
                    out.push_str(&html_safe(&row.to_string()));
                    out.push('\n');
                }
            }
            (_, "" | "table") => out = self.table(),
            (_, format) => out = self.by_template(format)?,
        }
        emit(out);
        Ok(())
    }

    fn title<'b>(&'b self, field: &'b str) -> &'b str {
        let own = self.titles.iter().find(|(its, _)| *its == field);
        own.map_or_else(|| template::title(field), |(_, title)| title)
    }

    fn table(&self) -> String {
        let titles = self
            .columns
            .iter()
            .map(|column| self.title(column).to_owned());
        let mut cells = vec![titles.collect()];
        cells.extend(self.rows.iter().map(|row| {
            self.columns
                .iter()
                .map(|column| plain(&row[*column]))
                .collect()
        }));
        table(&cells)
    }

    fn by_template(&self, format: &str) -> Done<String> {
        let (format, tabular) = match format.strip_prefix("table ") {
            Some(format) => (format, true),
            None => (format, false),
        };
        let template = Template::parse(format).map_err(Failure::new)?;
        let mut lines = Vec::new();
        if tabular {
            lines.push(template.titles(|field| self.title(field)));
        }
        for row in &self.rows {
            lines.push(template.render(row).map_err(Failure::new)?);
        }
        if tabular {
            let cells: Vec<Vec<String>> = lines
                .iter()
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect();
            return Ok(table(&cells));
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}

/// Go writes these three as escapes, so that JSON can stand in a web page.
fn html_safe(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// Unix seconds as Go prints a time: `2026-11-23 20:41:05 +0000 UTC`.
pub fn go_time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let text = format!("{time:.0}");
    text.replace('T', " ").replace('Z', " +0000 UTC")
}

/// `ps`
pub async fn ps(client: &Client, parsed: &Parsed) -> Done {
    let limit = match (parsed.on("latest"), parsed.number("last")) {
        (true, _) => "1".to_owned(),
        (false, Some(last)) if last > 0 => last.to_string(),
        _ => String::new(),
    };
    let format = parsed.text_or_empty("format");
    let sized = parsed.on("size") || format.contains(".Size") || format == "json";
    let on = |on: bool| if on { "1" } else { "" };
    let options = query(&[
        ("all", on(parsed.on("all") || !limit.is_empty())),
        ("filters", &filters(parsed.list("filter"))?),
        ("limit", &limit),
        ("size", on(sized && parsed.on("size"))),
    ]);
    let containers = client.get(&format!("/containers/json{options}")).await?;
    let truncate = !parsed.on("no-trunc");
    let now = jiff::Timestamp::now().as_second();
    let rows = containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| container_row(container, truncate, now))
        .collect();
    let mut columns = vec![
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
    ];
    if parsed.on("size") {
        columns.push("Size");
    }
    Listing {
        rows,
        columns,
        titles: &[("ID", "CONTAINER ID")],
        quiet: parsed.on("quiet").then_some("ID"),
    }
    .print(format)
}

fn container_row(container: &Value, truncate: bool, now: i64) -> Value {
    let text = |key: &str| container[key].as_str().unwrap_or_default();
    let id = text("Id");
    let created = container["Created"].as_i64().unwrap_or(0);
    let command = text("Command");
    let names: Vec<&str> = container["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        // Names with a slash are those that links give.
        .filter(|name| !truncate || !name.contains('/'))
        .collect();
    let labels: Vec<String> = container["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", plain(value)))
        .collect();
    let mounts = container["Mounts"].as_array();
    let local = mounts.map_or(0, |mounts| {
        mounts
            .iter()
            .filter(|mount| mount["Driver"] == "local")
            .count()
    });
    let mounts: Vec<String> = mounts
        .into_iter()
        .flatten()
        .map(|mount| {
            let name = mount["Name"].as_str().filter(|name| !name.is_empty());
            let name = name.unwrap_or(mount["Source"].as_str().unwrap_or_default());
            if truncate {
                ellipsis(name, 15)
            } else {
                name.to_owned()
            }
        })
        .collect();
    let networks: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    json!({
        "ID": if truncate { short_id(id) } else { id },
        "Image": image_column(text("Image"), text("ImageID"), truncate),
        "Command": quote(&if truncate { ellipsis(command, 20) } else { command.to_owned() }),
        "CreatedAt": go_time(created),
        "RunningFor": format!("{} ago", units::human_duration(now - created)),
        "Ports": ports::column(&container["Ports"]),
        "Platform": null,
        "State": text("State"),
        "Status": text("Status"),
        "Size": size_column(container),
        "Names": names.join(","),
        "Labels": labels.join(","),
        "LocalVolumes": local.to_string(),
        "Mounts": mounts.join(","),
        "Networks": networks.join(","),
    })
}

/// The image as the user named it; an id shortened, a digest left out beside a tag.
fn image_column(name: &str, id: &str, truncate: bool) -> String {
    if name.is_empty() {
        return "<no image>".into();
    }
    if !truncate {
        return name.to_owned();
    }
    if !id.is_empty() && short_id(name) == short_id(id) {
        return short_id(id).to_owned();
    }
    match name.split_once('@') {
        Some((tagged, _)) if !image::split_tag(tagged).1.is_empty() => tagged.to_owned(),
        _ => name.to_owned(),
    }
}

fn size_column(container: &Value) -> String {
    let own = container["SizeRw"].as_i64().unwrap_or(0);
    match container["SizeRootFs"].as_i64().unwrap_or(0) {
        0 => units::human_size(own),
        all => format!(
            "{} (virtual {})",
            units::human_size(own),
            units::human_size(all)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_json() {
        let given = [
            "label=a=b".to_owned(),
            "status=exited".to_owned(),
            "label=c".to_owned(),
        ];
        assert_eq!(
            filters(&given).unwrap(),
            r#"{"label":{"a=b":true,"c":true},"status":{"exited":true}}"#
        );
        assert_eq!(filters(&[]).unwrap(), "");
        assert!(filters(&["x".into()]).is_err());
    }

    #[test]
    fn a_row_is_what_docker_prints() {
        let container = json!({
            "Id": "e8eeb34bc5c2aaaa", "Names": ["/other/alias", "/c1"], "Image": "busybox",
            "ImageID": "sha256:7e880495e977bbbb", "Command": "sh -c 'trap \"echo bye; exit 3\" TERM'",
            "Created": 1000, "State": "running", "Status": "Up 2 seconds",
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8091, "Type": "tcp"}],
            "Labels": {"a": "b"}, "Mounts": [], "NetworkSettings": {"Networks": {"bridge": {}}},
        });
        let listing = Listing {
            rows: vec![container_row(&container, true, 1002)],
            columns: vec![
                "ID",
                "Image",
                "Command",
                "RunningFor",
                "Status",
                "Ports",
                "Names",
            ],
            titles: &[("ID", "CONTAINER ID")],
            quiet: None,
        };
        assert_eq!(
            listing.table(),
            "CONTAINER ID   IMAGE     COMMAND                   CREATED         STATUS         PORTS                  NAMES\n\
             e8eeb34bc5c2   busybox   \"sh -c 'trap \\\"echo b…\"   2 seconds ago   Up 2 seconds   0.0.0.0:8091->80/tcp   c1\n"
        );
        assert_eq!(
            listing.by_template("table {{.ID}}\\t{{.Names}}").unwrap(),
            "CONTAINER ID   NAMES\ne8eeb34bc5c2   c1\n"
        );
        assert_eq!(listing.by_template("{{.Names}}").unwrap(), "c1\n");
    }

    #[test]
    fn images_are_named_as_docker_does() {
        assert_eq!(
            image_column("sha256:0123456789abff", "sha256:0123456789abff", true),
            "0123456789ab"
        );
        assert_eq!(image_column("a:1@sha256:ff", "x", true), "a:1");
        assert_eq!(image_column("a@sha256:ff", "x", true), "a@sha256:ff");
        assert_eq!(image_column("", "x", true), "<no image>");
        assert_eq!(go_time(0), "1970-01-01 00:00:00 +0000 UTC");
    }
}
