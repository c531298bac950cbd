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
    engine::{
        Engine,
        manifest::{Manifests, Member},
        registry::Reach,
    },
    error::{Context as _, Error, Result},
    image::{
        Silent,
        list::{ListRecord, Notes, no_such_list},
    },
    oci::{Digest, Reference, media_type},
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
    let mut reach = reach(&args.registry)?;
    reach.tls_verify &= !args.insecure;
    if args.verbose {
        return inspect_all(engine, &name, &reach);
    }
    let bytes = match engine.store.list_record(&name)? {
        Some(list) => list.index()?.0,
        None => engine.remote(&name, &reach)?.1.bytes,
    };
    output::print(&format!("{}\n", indented(&bytes)?))
}

/// As `docker manifest inspect -v` shows them (docker/cli, cli/manifest/types/types.go).
fn inspect_all(engine: &Engine, name: &Reference, reach: &Reach) -> Result<()> {
    let all = match engine.manifests(name, reach)? {
        Manifests::One(member) => shown(&member)?,
        Manifests::List(members) => {
            let members = members.iter().map(shown).collect::<Result<Vec<_>>>()?;
            format!("[{}]", members.join(","))
        }
    };
    output::print(&format!("{}\n", indented(all.as_bytes())?))
}

fn shown(member: &Member) -> Result<String> {
    use base64::Engine as _;
    let descriptor = &member.descriptor;
    let key = match descriptor["mediaType"].as_str() {
        Some(media_type::DOCKER_MANIFEST) => "SchemaV2Manifest",
        _ => "OCIManifest",
    };
    let raw = base64::engine::general_purpose::STANDARD.encode(&member.bytes);
    let manifest = String::from_utf8_lossy(&member.bytes);
    Ok(format!(
        r#"{{"Ref":{},"Descriptor":{{"mediaType":{},"digest":{},"size":{},"platform":{}}},"Raw":"{raw}","{key}":{manifest}}}"#,
        serde_json::to_string(&member.name)?,
        descriptor["mediaType"],
        descriptor["digest"],
        descriptor["size"],
        descriptor["platform"],
    ))
}

/// JSON as `docker manifest inspect` shows it, by tabs; with its keys in the order they have.
fn indented(json: &[u8]) -> Result<String> {
    // Also the limit of its depth.
    serde_json::from_slice::<serde_json::Value>(json)?;
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped, mut is_new) = (0, false, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n('\t', depth));
    };
    for c in String::from_utf8_lossy(json).chars() {
        if in_string {
            out.push(c);
            in_string = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        depth -= usize::from(closes);
        // Nothing between two brackets stays on their line.
        if is_new != closes {
            line(&mut out, depth);
        }
        is_new = matches!(c, '{' | '[' | ',');
        depth += usize::from(matches!(c, '{' | '['));
        in_string = c == '"';
        out.push(c);
        if c == ':' {
            out.push(' ');
        }
    }
    Ok(out)
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
