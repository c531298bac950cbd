//! `mount` and `unmount`, of containers and of images, in podman's words.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{
    super::{
        args::{
            life::{Mount as MountContainers, Unmount as UnmountContainers},
            store::{Mount, Unmount},
        },
        exit,
        output::{self, visible},
    },
    container::each,
    store::named_or_all,
};
use crate::{
    engine::{
        Engine,
        container::list::{Listed, Query},
    },
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

/// All containers.
fn every(engine: &Engine) -> Result<Vec<Listed>> {
    Ok(engine.containers(&Query { all: true, ..Query::default() })?.containers)
}

pub fn mount_containers(engine: &Engine, args: &MountContainers) -> Result<ExitCode> {
    let as_json = match args.format.as_deref() {
        None | Some("") => false,
        Some("json") => true,
        Some(_) => return Err(Error::invalid("only supported value for '--format' is 'json'")),
    };
    let mut typed = args.containers.clone();
    if args.latest {
        typed.push(engine.newest()?.to_string());
    }
    let listing = typed.is_empty();
    if args.all {
        typed.extend(every(engine)?.iter().map(|one| one.id.to_string()));
    }
    let mut failed = false;
    let mut places = Vec::new();
    for name in &typed {
        match engine.find(name).and_then(|id| engine.mount_container(&id)) {
            Ok(place) => places.push((name.clone(), place)),
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    let text = match &places[..] {
        [(_, place)] if !listing && !as_json && typed.len() == 1 => {
            format!("{}\n", place.display())
        }
        _ if !listing && !as_json => table(&places),
        _ => listed(engine, as_json, args.no_trunc)?,
    };
    output::print(&text)?;
    Ok(exit::code(failed.into()))
}

/// What is mounted.
fn listed(engine: &Engine, as_json: bool, whole: bool) -> Result<String> {
    let mounted = every(engine)?.into_iter().filter_map(|one| {
        let place = engine.mount_of_container(&one.id)?;
        Some((one, place))
    });
    if as_json {
        let list: Vec<Value> = mounted
            .map(|(one, place)| json!({ "id": one.id, "Names": [one.name], "mountpoint": place }))
            .collect();
        return Ok(format!("{:#}\n", json!(list)));
    }
    let id = |one: &Listed| match whole {
        true => one.id.to_string(),
        false => one.id.short().to_owned(),
    };
    Ok(table(&mounted.map(|(one, place)| (id(&one), place)).collect::<Vec<_>>()))
}

fn table(places: &[(String, PathBuf)]) -> String {
    let width = places.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, place): &(String, PathBuf)| format!("{name:width$}  {}\n", place.display());
    places.iter().map(line).collect()
}

pub fn unmount_containers(engine: &Engine, args: &UnmountContainers) -> Result<ExitCode> {
    let mut names = args.containers.clone();
    if args.latest {
        names.push(engine.newest()?.to_string());
    }
    if args.all {
        let mounted = every(engine)?;
        let mounted = mounted.iter().filter(|one| engine.mount_of_container(&one.id).is_some());
        names.extend(mounted.map(|one| one.id.to_string()));
    }
    each(&names, |name| {
        engine.unmount_container(&engine.find(name)?, args.force).map(|_| Some(name.to_owned()))
    })
}
