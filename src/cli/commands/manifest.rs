//! `manifest`.

use std::{collections::BTreeMap, fs, process::ExitCode};

use super::{
    super::{
        args::manifest::{
            Add, Annotate, Create, EntryFlags, Exists, Inspect, ManifestCommand, Push, Remove, Rm,
        },
        exit,
        output::{self, progress::Show},
    },
    registry::{reach, with_progress},
};
use crate::{
    engine::{Engine, registry::Reach},
    error::{Context as _, Error, Result},
    image::{
        Silent,
        list::{ListRecord, Notes, no_such_list},
    },
    oci::{Digest, Reference},
};

pub fn manifest(engine: &Engine, command: &ManifestCommand) -> Result<ExitCode> {
    match command {
        ManifestCommand::Create(args) => create(engine, args)?,
        ManifestCommand::Add(args) => {
            let reach = reach(&args.registry)?;
            print_digest(&add(engine, args, &reach)?)?;
        }
        ManifestCommand::Annotate(args) => annotate(engine, args)?,
        ManifestCommand::Inspect(args) => inspect(engine, args)?,
        ManifestCommand::Exists(args) => return exists(engine, args),
        ManifestCommand::Push(args) => push(engine, args)?,
        ManifestCommand::Remove(args) => remove(engine, args)?,
        ManifestCommand::Rm(args) => return rm(engine, args),
    }
    Ok(ExitCode::SUCCESS)
}

fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Error::invalid(format!("--{flag} {text:?}: it should be KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

fn notes(flags: &EntryFlags) -> Result<Notes> {
    Ok(Notes {
        architecture: flags.arch.clone(),
        os: flags.os.clone(),
        os_version: flags.os_version.clone(),
        os_features: flags.os_features.clone(),
        features: flags.features.clone(),
        variant: flags.variant.clone(),
        annotations: pairs("annotation", &flags.annotation)?,
    })
}

fn print_digest(list: &ListRecord) -> Result<()> {
    output::print(&format!("{}\n", Digest::of(&list.index()?.0)))
}

fn create(engine: &Engine, args: &Create) -> Result<()> {
    let name: Reference = args.list.parse()?;
    let mut reach = reach(&args.registry)?;
    reach.tls_verify &= !args.insecure;
    let known = engine.store.list_record(&name)?.is_some();
    engine.create_list(&name, args.amend, pairs("annotation", &args.annotation)?)?;
    for image in &args.images {
        let added = engine.add_to_list(&name, image, args.all, &Notes::default(), &reach);
        if let Err(err) = added {
            if !known {
                engine.store.remove_list(&name)?;
            }
            return Err(err);
        }
    }
    output::print(&format!("Created manifest list {name}\n"))
}

fn add(engine: &Engine, args: &Add, reach: &Reach) -> Result<ListRecord> {
    engine.add_to_list(&args.list.parse()?, &args.image, args.all, &notes(&args.entry)?, reach)
}

fn annotate(engine: &Engine, args: &Annotate) -> Result<()> {
    engine.annotate_list(&args.list.parse()?, &args.image, &notes(&args.entry)?)
}

/// A list that is here, or else what the registry has.
fn inspect(engine: &Engine, args: &Inspect) -> Result<()> {
    let name: Reference = args.name.parse()?;
    let bytes = match engine.store.list_record(&name)? {
        Some(list) => list.index()?.0,
        None => {
            let mut reach = reach(&args.registry)?;
            reach.tls_verify &= !args.insecure;
            engine.remote(&name, &reach)?.1.bytes
        }
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes)?;
    output::print(&format!("{}\n", indented(&value)?))
}

/// As docker shows JSON: by four spaces.
fn indented(value: &serde_json::Value) -> Result<String> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut out = serde_json::Serializer::with_formatter(&mut text, format);
    serde::Serialize::serialize(value, &mut out)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    let known = engine.store.list_record(&args.list.parse()?)?.is_some();
    Ok(exit::code((!known).into()))
}

fn push(engine: &Engine, args: &Push) -> Result<()> {
    let name: Reference = args.list.parse()?;
    let destination = args.destination.as_deref();
    let bare = destination.map(|text| text.strip_prefix("docker://").unwrap_or(text));
    let target = bare.map_or(Ok(name.clone()), str::parse)?;
    let mut reach = reach(&args.registry)?;
    reach.tls_verify &= !args.insecure;
    let pushed = match args.quiet {
        true => engine.push_list(&name, &target, &reach, &Silent)?,
        false => {
            with_progress(Show::Auto, |layers| engine.push_list(&name, &target, &reach, layers))?
        }
    };
    if let Some(file) = &args.digestfile {
        fs::write(file, pushed.digest.as_str()).at(file).doing("write the digest")?;
    }
    if args.purge {
        engine.store.remove_list(&name)?;
    }
    output::print(&format!("{}\n", pushed.digest))
}

fn remove(engine: &Engine, args: &Remove) -> Result<()> {
    engine.remove_from_list(&args.list.parse()?, &args.image)?;
    print_digest(&engine.list(&args.list.parse()?)?)
}

fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    let mut failed = false;
    for typed in &args.lists {
        let name: Reference = typed.parse()?;
        if engine.store.remove_list(&name)? {
            output::print(&format!("Removed: {name}\n"))?;
        } else if !args.ignore {
            failed = true;
            exit::report(&no_such_list(&name));
        }
    }
    Ok(exit::code(failed.into()))
}
