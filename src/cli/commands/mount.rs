//! `image mount` and `image unmount`, in podman's words.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{
    super::{
        args::store::{Mount, Unmount},
        exit,
        output::{self, visible},
    },
    store::named_or_all,
};
use crate::{
    engine::Engine,
    error::{Error, Result},
    image::Image,
};

pub fn mount(engine: &Engine, args: &Mount) -> Result<ExitCode> {
    if !matches!(args.format.as_deref(), None | Some("" | "json")) {
        return Err(Error::invalid("only supported value for '--format' is 'json'"));
    }
    let typed = named_or_all(engine, &args.images, args.all)?;
    let mut failed = false;
    let mut shown: Vec<(Image, PathBuf)> = Vec::new();
    for typed in &*typed {
        match engine.mount_image(typed) {
            Ok(place) => shown.push((engine.image(typed)?, place)),
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    if typed.is_empty() && !args.all {
        shown = engine.mounted_images()?;
    }
    let text = match (&args.format, &args.images[..], &shown[..]) {
        (Some(format), ..) if format == "json" => {
            let list: Vec<Value> = shown.iter().map(described).collect();
            format!("{:#}\n", json!(list))
        }
        (_, [_], [(_, place)]) => format!("{}\n", place.display()),
        _ => lines(&shown),
    };
    output::print(&text)?;
    Ok(exit::code(failed.into()))
}

fn described((image, place): &(Image, PathBuf)) -> Value {
    let digests: Vec<_> = image.names.iter().filter_map(|name| name.digest.as_ref()).collect();
    let names: Vec<_> = image.names.iter().map(|name| name.name.familiar()).collect();
    json!({
        "id": image.record.id.hex(),
        "Names": digests,
        "Repositories": names,
        "mountpoint": place,
    })
}

fn lines(shown: &[(Image, PathBuf)]) -> String {
    let name = |image: &Image| match image.names.first() {
        Some(name) => name.name.familiar(),
        None => image.record.id.hex().to_owned(),
    };
    let width = shown.iter().map(|(image, _)| name(image).chars().count()).max().unwrap_or(0);
    let line = |(image, place): &(Image, PathBuf)| {
        format!("{:width$}  {}\n", visible(&name(image)), place.display())
    };
    shown.iter().map(line).collect()
}

pub fn unmount(engine: &Engine, args: &Unmount) -> Result<ExitCode> {
    let every: Vec<String>;
    let typed = match args.all {
        true => {
            let list = engine.mounted_images()?;
            every = list.into_iter().map(|(image, _)| image.record.id.to_string()).collect();
            &every
        }
        false => &args.images,
    };
    let mut failed = false;
    for typed in typed {
        match engine.unmount_image(typed, args.force) {
            Ok(id) => output::print(&format!("{}\n", id.hex()))?,
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}
