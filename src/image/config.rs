//! Reading an image's configuration: strict about types, lenient about what Docker leaves null.

use oci_spec::image::{Config, ImageConfiguration};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Go writes an empty map's members as `{}` or, in old images, as null. Elsewhere null is absent.
const SETS: [&str; 2] = ["ExposedPorts", "Volumes"];

/// Parses a configuration blob (image-spec config.md). An error names the field at fault.
pub fn parse(bytes: &[u8]) -> Result<ImageConfiguration> {
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|err| Error::invalid(format!("the image's configuration is not JSON: {err}")))?;
    drop_nulls(&mut value);
    let Value::Object(fields) = &value else {
        return Err(Error::invalid("the image's configuration is not a JSON object"));
    };
    let mut parsed: ImageConfiguration = match serde_json::from_value(value.clone()) {
        Ok(parsed) => parsed,
        Err(err) => return Err(blame(fields, &err)),
    };
    sort_sets(&mut parsed);
    Ok(parsed)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for set in SETS {
                if let Some(Value::Object(members)) = fields.get_mut(set) {
                    members.values_mut().for_each(|member| *member = json!({}));
                }
            }
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    if let Value::Object(fields) = value
        && let Some(Value::Object(rootfs)) = fields.get_mut("rootfs")
    {
        // An image with no layers, as Docker writes `FROM scratch` with only metadata.
        rootfs.entry("diff_ids").or_insert_with(|| json!([]));
    }
}

/// The sets are maps on disk, and arrive in any order; what is made of them should not vary.
fn sort_sets(parsed: &mut ImageConfiguration) {
    let Some(mut config) = parsed.config().clone() else { return };
    if let Some(mut ports) = config.exposed_ports().clone() {
        ports.sort();
        config.set_exposed_ports(Some(ports));
    }
    if let Some(mut volumes) = config.volumes().clone() {
        volumes.sort();
        config.set_volumes(Some(volumes));
    }
    parsed.set_config(Some(config));
}

/// serde names no field, so each is tried alone, in a configuration that is otherwise right.
fn blame(fields: &Map<String, Value>, whole: &serde_json::Error) -> Error {
    if let Some(Value::Object(inner)) = fields.get("config")
        && let Some((name, err)) = first_bad::<Config>(&Map::new(), inner)
    {
        return Error::invalid(format!("the image's configuration: config.{name}: {err}"));
    }
    let right =
        json!({ "architecture": "", "os": "", "rootfs": { "type": "layers", "diff_ids": [] } });
    let Value::Object(right) = right else { return whole_error(whole) };
    match first_bad::<ImageConfiguration>(&right, fields) {
        Some((name, err)) => Error::invalid(format!("the image's configuration: {name}: {err}")),
        None => whole_error(whole),
    }
}

fn whole_error(err: &serde_json::Error) -> Error {
    Error::invalid(format!("the image's configuration: {err}"))
}

fn first_bad<'a, T: DeserializeOwned>(
    right: &Map<String, Value>,
    fields: &'a Map<String, Value>,
) -> Option<(&'a str, serde_json::Error)> {
    fields.iter().find_map(|(name, value)| {
        let mut one = right.clone();
        one.insert(name.clone(), value.clone());
        serde_json::from_value::<T>(Value::Object(one)).err().map(|err| (name.as_str(), err))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_leaves_null_is_absent() {
        let parsed = parse(
            br#"{"architecture":"amd64","os":"linux","history":null,"variant":null,
            "config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,"Labels":null,"OnBuild":null,
                      "ExposedPorts":{"80/tcp":null,"443/tcp":{}},"Volumes":{"/b":{},"/a":null}},
            "rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .expect("parses");
        let config = parsed.config().clone().expect("config");
        assert_eq!(config.env(), &None);
        assert_eq!(config.cmd(), &Some(vec!["sh".into()]));
        assert_eq!(config.exposed_ports(), &Some(vec!["443/tcp".into(), "80/tcp".into()]));
        assert_eq!(config.volumes(), &Some(vec!["/a".into(), "/b".into()]));
        assert!(parsed.rootfs().diff_ids().is_empty());
    }

    #[test]
    fn a_wrong_type_is_named() {
        let with = |field: &str| {
            let text = format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},{field}}}"#
            );
            parse(text.as_bytes()).expect_err(field).to_string()
        };
        assert!(with(r#""config":{"Env":"A=b"}"#).contains("config.Env: invalid type"));
        assert!(with(r#""config":{"Entrypoint":"/bin/sh"}"#).contains("config.Entrypoint"));
        assert!(with(r#""config":{"Cmd":[1]}"#).contains("config.Cmd"));
        assert!(with(r#""config":7"#).contains("config: invalid type"));
        assert!(with(r#""history":{}"#).contains("history: invalid type"));
        let missing = parse(br#"{"os":"linux"}"#).expect_err("missing").to_string();
        assert!(missing.contains("missing field"), "{missing}");
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).expect_err("deep").to_string().contains("recursion"));
    }
}
