//! `build` and `builder prune`.

mod buildah;
mod check;
mod given;
mod kept;
mod progress;
mod sources;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use serde_json::json;

use check::Call;
pub use kept::{du, prune};
use progress::{Progress, Show, note};
use sources::{Locks, contexts, sources};

use super::{
    super::{
        args::build::Build,
        exit, messages, output,
        value::{self, build::Attest, env as values, security as values_of, size},
    },
    attach::Signals,
    registry::{policy, reach},
};
use crate::{
    build::lex,
    engine::{
        Engine,
        build::{
            BuildRequest, CacheTo, Context, Export, ExportKind, Exported, Exporting, INTERRUPTED,
            Network, Provenance, Squash, Target, host_platform,
        },
    },
    error::{Context as _, Error, Result},
    image::{Silent, pull::Policy},
    oci::{Platform, Reference},
    state::record::{Resources, SecurityOptions},
};

/// What a shell sees of a program that Ctrl-C has ended.
const INTERRUPT: i32 = 128 + libc::SIGINT;

pub fn build(engine: &Engine, args: &Build) -> Result<ExitCode> {
    let (show, log) = show(args)?;
    let quiet = show == Show::Nothing;
    if !args.rm {
        return Err(Error::unsupported("--rm=false: steps leave no containers behind"));
    }
    if args.debug {
        messages::listen(log::LevelFilter::Debug);
    }
    engine.builders()?.find(args.builder.as_deref().unwrap_or_default())?;
    buildah::check(args)?;
    let (mut call, as_json) = check::parse(&args.call)?;
    if args.check {
        call = Call::Check;
    }
    let mut platforms = platforms(&buildah::platform(args)?)?;
    let exports = exports(args)?;
    let annotations = args.annotation.iter().map(|text| value::build::annotation(text));
    let annotations = annotations.collect::<Result<Vec<_>>>()?.concat();
    let cache_from = args.cache_from.iter().map(|text| value::build::cache_from(text));
    let cache_from = cache_from.collect::<Result<Vec<_>>>()?;
    let cache_to = args.cache_to.iter().map(|text| value::build::cache_to(text));
    let cache_to = cache_to.collect::<Result<Vec<_>>>()?;
    // From here on they are read where they can be answered: nothing is left half made.
    let signals = Signals::of_end()?;
    let mut build_args = build_args(&args.build_arg)?;
    buildah::add_args(args, &mut build_args)?;
    let mut locks = Locks::new(args, is_set(&build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")?)?;
    let (dockerfile, context) = sources(engine, args, &mut locks)?;
    if args.lock || args.locked {
        are_lockable(args, &context, &locks)?;
    }
    locks.settle(args, &context)?;
    let (contexts, brought) = contexts(engine, &args.build_context, &mut locks)?;
    let rights = given::rights(&args.allow)?;
    let names = args.tag.iter().map(|text| value::build::name(text));
    let names = names.collect::<Result<Vec<Reference>>>()?;
    if let Some(frontend) = build_args.get("BUILDKIT_SYNTAX").filter(|it| !lex::is_frontend(it)) {
        return Err(Error::unsupported(format!("the frontend {frontend} is not in this version"))
            .hint("dhow reads the Dockerfile language itself, as docker/dockerfile has it"));
    }
    let mut request = BuildRequest {
        dockerfile,
        context,
        contexts,
        inline_cache: cache_to.contains(&CacheTo::Inline)
            || is_set(&build_args, "BUILDKIT_INLINE_CACHE")?,
        args: build_args,
        labels: args.label.iter().map(|text| values::label(text)).collect::<Result<_>>()?,
        target: args.target.clone(),
        no_cache: args.no_cache || args.more.layers == Some(false),
        no_cache_filter: args.no_cache_filter.clone(),
        pull: pull_policy(&args.pull)?,
        platform: platforms[0].clone(),
        network: network(args.network.as_deref())?,
        host: host_platform()?,
        run: buildah::surroundings(args)?,
        cdi: buildah::cdi_devices(args),
        secrets: given::secrets(&args.secret)?,
        ssh: given::agents(&args.ssh)?,
        locked: locks.lock,
        cache_from,
        squash: match (args.squash_all, args.squash || args.more.layers == Some(false)) {
            (true, _) => Squash::All,
            (false, true) => Squash::New,
            (false, false) => Squash::No,
        },
        reach: reach(&args.registry)?,
        allow_host_network: rights.host_network || args.network.as_deref() == Some("host"),
        allow_insecure: rights.insecure,
        allow_devices: rights.devices,
        all_stages: args.more.skip_unused_stages == Some(false),
        jobs: args.more.jobs,
        cache_since: buildah::cache_since(args)?,
        from: args.more.from.clone(),
        retouch: buildah::retouch(args)?,
        interrupt: Some(signals.as_fd()),
    };
    if args.more.all_platforms {
        platforms = engine.platforms_of_build(&request)?;
        request.platform = platforms[0].clone();
    }
    let as_index = as_index(&request.args, platforms.len())?;
    if call != Call::Build {
        return check::call(engine, &request, call, as_json);
    }
    let (max, sbom) = statements(args)?;
    let source = locks.taken.source(&args.context).filter(|_| locks.is_remote);
    let source = source.map(|found| (args.context.clone(), found));
    let told = |max: bool| Provenance {
        max,
        builder: format!("dhow {}", env!("CARGO_PKG_VERSION")),
        target: request.target.clone(),
        dockerfile: request.dockerfile.name.clone(),
        text: request.dockerfile.text.clone(),
        source: source.clone(),
        args: request.args.clone(),
        labels: request.labels.clone(),
    };
    let provenance = max.map(told);
    let in_metadata = metadata_provenance()?.filter(|_| args.metadata_file.is_some()).map(told);
    let how = Exporting {
        exports: &exports,
        names: &names,
        annotations: &annotations,
        provenance,
        sbom,
        reach: reach(&args.registry)?,
        caches: &cache_to,
        as_index,
    };
    how.check(platforms.len())?;
    let checked = engine.check_build(&request)?;
    if let Some(err) = check::refused(&checked) {
        note(check::summary(&checked.warnings).trim_end());
        return Err(err.context("failed to build"));
    }
    let progress = Progress::new(show, args.trace.clone(), log);
    let mut built = Vec::new();
    let several = platforms.len() > 1;
    for platform in platforms {
        progress.next(Some(&platform).filter(|_| several));
        request.platform = platform;
        let outcome = progress.during(|| engine.build(&request, &progress, &Silent));
        if outcome.is_err() {
            progress.finish()?;
        }
        match outcome {
            Err(err) if err.to_string() == INTERRUPTED => {
                exit::report(&err);
                return Ok(exit::code(INTERRUPT));
            }
            done => built.push(done.doing("failed to build")?),
        }
    }
    progress.finish()?;
    if !quiet && !checked.warnings.is_empty() {
        // What was not here before is by now.
        let checked = engine.check_build(&request)?;
        progress.note(check::summary(&checked.warnings).trim_end());
    }
    if args.lock {
        let mut lock = locks.taken;
        built.iter().for_each(|built| lock.merge(built.taken.clone()));
        match locks.is_remote {
            true => lock.write(Path::new("."), None)?,
            false => lock.write(request.context.path(), request.context.newest()?)?,
        }
    }
    let in_metadata = in_metadata.iter().flat_map(|provenance| {
        built.iter().map(|built| (built.record.platform.clone(), provenance.predicate(built)))
    });
    let in_metadata: Vec<_> = in_metadata.collect();
    let ids: Vec<String> = built.iter().map(|built| built.record.id.to_string()).collect();
    let exported = engine.export_build(built, &how, &progress, &Silent)?;
    for id in brought {
        // Its layers are the new image's, if it took them.
        engine.remove_image(&id, false)?;
    }
    if let Some(path) = &args.iidfile {
        fs::write(path, exported.id.as_str()).at(path).doing("write --iidfile")?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_vec_pretty(&metadata(&exported, &in_metadata))?;
        fs::write(path, text).at(path).doing("write --metadata-file")?;
    }
    buildah::add_to_list(engine, args, &ids)?;
    if quiet && exports.iter().any(is_to_stdout) {
        return Ok(ExitCode::SUCCESS);
    }
    tell(&exported, quiet, &progress)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether what leaves is as for several platforms (Dockerfile reference, "BuildKit built-in build
/// args").
fn as_index(args: &BTreeMap<String, String>, platforms: usize) -> Result<bool> {
    const NAME: &str = "BUILDKIT_MULTI_PLATFORM";
    let is_several = platforms > 1;
    if args.get(NAME).is_none_or(String::is_empty) {
        return Ok(is_several);
    }
    match is_set(args, NAME)? {
        false if is_several => Err(Error::invalid(
            "conflicting config: returning multiple target platforms is not allowed",
        )
        .hint(format!("leave --build-arg {NAME} away, or name one --platform"))),
        is_set => Ok(is_set),
    }
}

/// What each `RUN` is limited to.
fn limits(args: &Build) -> Result<Resources> {
    Ok(Resources {
        memory: args.memory.as_deref().map(size::bytes).transpose().doing("--memory")?,
        memory_swap: (args.memory_swap.as_deref().map(size::memory_swap).transpose())
            .doing("--memory-swap")?,
        cpu_shares: args.cpu_shares,
        cpu_quota: args.cpu_quota,
        cpu_period: args.cpu_period,
        cpuset_cpus: args.cpuset_cpus.clone(),
        cpuset_mems: args.cpuset_mems.clone(),
        ..Resources::default()
    })
}

fn security(options: &[String]) -> Result<SecurityOptions> {
    let read = |text: &String| {
        values_of::security_option(text).doing_with(|| format!("--security-opt {text}"))
    };
    values_of::resolve(&options.iter().map(read).collect::<Result<Vec<_>>>()?)
}

/// Refuses what no lock can be written for, or holds.
fn are_lockable(args: &Build, context: &Context, locks: &Locks) -> Result<()> {
    if args.lock && context.is_temporary() && !locks.is_remote {
        return Err(Error::invalid(
            "--lock writes dhow.lock into the context, which is no directory here",
        )
        .hint("lock a checkout of it; --locked reads the dhow.lock of any context"));
    }
    for (name, place) in args.build_context.iter().filter_map(|text| text.split_once('=')) {
        if place.starts_with("oci-layout://") {
            return Err(Error::unsupported(format!(
                "what the build context {name} is made of is not in dhow.lock"
            ))
            .hint("name a directory, docker-image://, a git repository or a tar of the web"));
        }
    }
    Ok(())
}

/// Without any, the image is kept here.
fn exports(args: &Build) -> Result<Vec<Export>> {
    let mut exports =
        args.output.iter().map(|text| value::build::output(text)).collect::<Result<Vec<_>>>()?;
    let image = |push| Export {
        kind: ExportKind::Image { push },
        names: Vec::new(),
        packing: None,
        annotations: Vec::new(),
    };
    if args.push {
        // As buildx has it: what is an image already is pushed.
        let known = exports.iter_mut().find(|e| matches!(e.kind, ExportKind::Image { .. }));
        match known {
            Some(export) => export.kind = ExportKind::Image { push: true },
            None => exports.push(image(true)),
        }
    }
    let is_kept = exports.iter().any(|e| matches!(e.kind, ExportKind::Image { .. }));
    if exports.is_empty() || (args.load && !is_kept) {
        exports.push(image(false));
    }
    let to_stdout = exports.iter().filter(|export| is_to_stdout(export));
    match to_stdout.count() {
        0 => Ok(exports),
        1 if io::stdout().is_terminal() => {
            Err(Error::invalid("dest file is required: refusing to write to console")
                .hint("--output type=...,dest=FILE, or redirect stdout"))
        }
        1 => Ok(exports),
        _ => Err(Error::invalid("only one output can go to stdout")),
    }
}

/// Whether it has the place where --quiet prints the id.
fn is_to_stdout(export: &Export) -> bool {
    matches!(
        export.kind,
        ExportKind::Files { to: Target::Stdout, .. }
            | ExportKind::Archive { to: Target::Stdout, .. }
    )
}

/// How much is to be said of how the images were built, if anything; and whether what packages are in
/// them is.
fn statements(args: &Build) -> Result<(Option<bool>, bool)> {
    let mut sbom = args.sbom.as_deref().map(value::build::sbom).transpose()?.unwrap_or(false);
    let mut max = args.provenance.as_deref().map(value::build::provenance).transpose()?.flatten();
    for text in &args.attest {
        match value::build::attest(text)? {
            Attest::Provenance(asked) => max = asked.or(max),
            Attest::Sbom(asked) => sbom = asked,
        }
    }
    Ok((max, sbom))
}

/// How much `--metadata-file` says of how the images were built (buildx, `BUILDX_METADATA_PROVENANCE`).
fn metadata_provenance() -> Result<Option<bool>> {
    match env::var("BUILDX_METADATA_PROVENANCE").as_deref() {
        Err(_) | Ok("" | "min") => Ok(Some(false)),
        Ok("max") => Ok(Some(true)),
        Ok("disabled" | "false" | "0") => Ok(None),
        Ok(other) => Err(Error::invalid(format!("BUILDX_METADATA_PROVENANCE: {other:?}"))
            .hint("there are min, max and disabled")),
    }
}

/// `--metadata-file`, in buildx's words.
fn metadata(
    exported: &Exported,
    provenance: &[(Platform, serde_json::Value)],
) -> serde_json::Value {
    let mut metadata = json!({
        "containerimage.config.digest": exported.id,
        "containerimage.descriptor": exported.descriptor,
        "containerimage.digest": exported.descriptor["digest"],
    });
    if !exported.names.is_empty() {
        let names: Vec<String> = exported.names.iter().map(ToString::to_string).collect();
        metadata["image.name"] = json!(names.join(","));
    }
    let key = "buildx.build.provenance";
    match provenance {
        [(_, only)] => metadata[key] = only.clone(),
        several => {
            for (platform, one) in several {
                metadata[format!("{key}/{platform}")] = one.clone();
            }
        }
    }
    metadata
}

fn tell(exported: &Exported, quiet: bool, progress: &Progress) -> Result<()> {
    if quiet {
        return output::print(&format!("{}\n", exported.id));
    }
    if exported.kept {
        let mut text = format!("writing image {}\n", exported.id);
        for name in &exported.names {
            text.push_str(&format!("naming to {name}\n"));
        }
        progress.note(text.trim_end());
    }
    Ok(())
}

/// How it is told what is done, and the file that it is told in.
fn show(args: &Build) -> Result<(Show, Option<fs::File>)> {
    let Some(path) = &args.more.logfile else {
        return Ok((Show::parse(&args.progress, args.quiet)?, None));
    };
    let kind = if args.progress == "auto" { "plain" } else { &args.progress };
    let file = fs::File::create(path).at(path).doing("write --logfile")?;
    match Show::parse(kind, args.quiet)? {
        Show::Live => Err(Error::invalid("--progress tty: --logfile is no terminal")),
        show @ (Show::Plain | Show::Json | Show::Nothing) => Ok((show, Some(file))),
    }
}

fn pull_policy(text: &str) -> Result<Policy> {
    match text {
        "true" => Ok(Policy::Always),
        "false" => Ok(Policy::Missing),
        text => policy(text).ok_or_else(|| {
            Error::invalid(format!("invalid --pull {text:?}"))
                .hint("there are always, missing, newer and never")
        }),
    }
}

/// A name alone has the environment's value, or none.
fn build_args(list: &[String]) -> Result<BTreeMap<String, String>> {
    let mut args = BTreeMap::new();
    for text in list {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Error::invalid(format!("invalid --build-arg {text:?}: it has no name")));
        }
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        }
    }
    Ok(args)
}

/// Whether an argument that is for the builder is true, in Go's words.
fn is_set(args: &BTreeMap<String, String>, name: &str) -> Result<bool> {
    match args.get(name).map(String::as_str) {
        None | Some("") => Ok(false),
        Some(text) => value::boolean(text).ok_or_else(|| {
            Error::invalid(format!("invalid --build-arg {name}={text}: it is true or false"))
        }),
    }
}

/// What to build for, each once.
fn platforms(wanted: &[String]) -> Result<Vec<Platform>> {
    let mut found: Vec<Platform> = Vec::new();
    for text in wanted.iter().filter(|text| !text.is_empty()) {
        let platform = match text.as_str() {
            "local" => host_platform()?,
            text => text.parse()?,
        };
        if !found.contains(&platform) {
            found.push(platform);
        }
    }
    if found.is_empty() {
        found.push(host_platform()?);
    }
    Ok(found)
}

fn network(mode: Option<&str>) -> Result<Network> {
    match mode {
        None | Some("default" | "bridge") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(Error::unsupported(format!("--network {other} is not in this version"))
            .hint("there are default, none and host")),
    }
}
