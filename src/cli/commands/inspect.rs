//! `inspect`: an array of objects, or a template for each.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::{
    super::{
        args::system::Inspect,
        exit,
        output::{
            self,
            template::{Template, View},
        },
    },
    network,
};
use crate::{
    engine::{
        Engine,
        inspect::{Document, ObjectType},
    },
    error::{Error, Kind, Result},
};

/// Tries each name: what is found is printed, what is not makes the exit code 1.
pub fn inspect(engine: &Engine, args: &Inspect, verb: ObjectType) -> Result<ExitCode> {
    let kind = match (args.kind.as_deref().unwrap_or_default(), verb) {
        ("", verb) => verb,
        ("container", ObjectType::Any | ObjectType::Container) => ObjectType::Container,
        ("image", ObjectType::Any | ObjectType::Image) => ObjectType::Image,
        ("volume", ObjectType::Any) => ObjectType::Volume,
        ("network", ObjectType::Any) => {
            let (names, format) = (&args.names, args.format.as_deref());
            return each(names, format, |name| network::description(engine, name));
        }
        (other, _) => {
            return Err(Error::invalid(format!("\"{other}\" is not a valid value for --type"))
                .hint("a type is container, image, network or volume"));
        }
    };
    let mut names = args.names.clone();
    if args.latest {
        names.push(engine.newest()?.to_string());
    }
    if args.platform.is_some() && kind != ObjectType::Image {
        return Err(Error::invalid("--platform is for images")
            .hint("`dhow image inspect --platform` describes an image for one"));
    }
    each(&names, args.format.as_deref(), |name| {
        if args.platform.is_some() {
            engine.image_for(name, args.platform.as_deref())?;
        }
        match engine.inspect(name, kind, args.size) {
            Err(err) if kind == ObjectType::Any && err.kind() == Kind::NotFound => {
                network::description(engine, name).map(Described::Value).map_err(|_| err)
            }
            document => document.map(Described::Object),
        }
    })
}

/// What is described has its fields in docker's order, or its own.
#[derive(Serialize)]
#[serde(untagged)]
enum Described {
    Object(Document),
    Value(Value),
}

/// Prints what `describe` says of each name, as `format` wants it.
pub(super) fn each<T: Serialize>(
    names: &[String],
    format: Option<&str>,
    describe: impl Fn(&str) -> Result<T>,
) -> Result<ExitCode> {
    let format = format.filter(|format| !format.is_empty());
    let template = format.filter(|format| *format != "json").map(Template::parse).transpose()?;
    let mut found = Vec::new();
    let mut lines = String::new();
    let mut failed = false;
    for name in names {
        let described = describe(name).and_then(|document| {
            match &template {
                Some(template) => lines.push_str(&rendered(template, &document)?),
                None => found.push(document),
            }
            Ok(())
        });
        if let Err(err) = described {
            failed = true;
            exit::report(&err);
        }
    }
    let text = match format {
        None => indented(&found)?,
        Some("json") => serde_json::to_string(&found)? + "\n",
        // Docker: a line even if there is nothing to say.
        Some(_) if lines.is_empty() => "\n".to_owned(),
        Some(_) => lines,
    };
    output::print(&text)?;
    Ok(exit::code(failed.into()))
}

fn rendered(template: &Template, document: &impl Serialize) -> Result<String> {
    let view = View { strict: true, ..View::default() };
    Ok(template.render(&serde_json::to_value(document)?, view)? + "\n")
}

/// JSON as docker indents it, by four.
pub(super) fn indented(found: &[impl serde::Serialize]) -> Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    found.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
