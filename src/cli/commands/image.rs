//! Images from elsewhere: `pull`, `load`, `import`, and the image a container is made of.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{
    super::{
        args::{
            container::ContainerFlags,
            image::{Import, Load, Pull},
        },
        exit,
        output::{self, progress::Layers},
    },
    create,
};
use crate::{
    engine::{Engine, image::Want},
    error::{Context as _, Error, Result},
    image::{
        Image, Progress, Silent, archive, builtin,
        pull::{self, Policy},
        store::NameRecord,
    },
    oci::Reference,
    sys::tty,
};

/// The image to make a container of, and its name as it will be shown.
pub(super) fn obtain(engine: &Engine, flags: &ContainerFlags) -> Result<(Image, String)> {
    let (typed, _) = create::image_and_command(flags)?;
    let policy = match flags.pull.as_str() {
        "always" => Policy::Always,
        "missing" => Policy::Missing,
        "never" => Policy::Never,
        other => {
            return Err(Error::invalid(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )));
        }
    };
    let want = Want { platform: flags.platform.clone(), policy, tls_verify: true };
    let here = engine.store.resolve(typed)?.is_some();
    let image = if flags.quiet || here && policy == Policy::Missing || policy == Policy::Never {
        engine.obtain(typed, &want, &Silent)?
    } else {
        let name: Reference = typed.parse()?;
        if !here && !builtin::is_builtin(&name) {
            exit::note(&format!("Unable to find image '{}' locally", name.familiar()));
        }
        with_progress(|layers| engine.obtain(typed, &want, layers))?
    };
    Ok((image, typed.to_owned()))
}

fn with_progress<T>(act: impl FnOnce(&Layers) -> Result<T>) -> Result<T> {
    let layers = Layers::stderr();
    let done = act(&layers);
    layers.finish();
    done
}

pub fn pull(engine: &Engine, args: &Pull) -> Result<ExitCode> {
    let want = Want {
        platform: args.platform.clone(),
        policy: Policy::Always,
        tls_verify: args.tls_verify,
    };
    let reference: Reference = args.image.parse()?;
    let name = reference.stored();
    // A damaged one is no reason not to fetch a whole one.
    let before = engine.store.name(&name).ok().flatten();
    if args.quiet {
        engine.obtain(&args.image, &want, &Silent)?;
    } else {
        let image = with_progress(|layers| engine.obtain(&args.image, &want, layers))?;
        tell_outcome(&image, &name, before.as_ref());
    }
    output::print(&format!("{reference}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Docker's last words on a pull. They go to stderr: what was asked for is the name.
fn tell_outcome(image: &Image, reference: &Reference, before: Option<&NameRecord>) {
    let known = image.names.iter().find(|named| named.name == *reference);
    if let Some(digest) = known.and_then(|named| named.digest.as_ref()) {
        exit::note(&format!("Digest: {digest}"));
    }
    let status = match before {
        Some(before) if before.image == image.record.id => "Image is up to date for",
        _ => "Downloaded newer image for",
    };
    exit::note(&format!("Status: {status} {}", reference.familiar()));
}

/// From a file, or from stdin unless that is a terminal.
fn source(file: Option<&std::path::Path>) -> Result<Box<dyn std::io::Read>> {
    match file {
        Some(path) => Ok(Box::new(std::fs::File::open(path).at(path).doing("open")?)),
        None if tty::is_terminal(std::io::stdin()) => {
            Err(Error::invalid("requested load from stdin, but stdin is empty")
                .hint("name the archive with -i FILE, or pipe it in"))
        }
        None => Ok(Box::new(std::io::stdin().lock())),
    }
}

pub fn load(engine: &Engine, args: &Load) -> Result<ExitCode> {
    let mut source = source(args.input.as_deref())?;
    let platform = pull::host_platform()?;
    let unpacker = engine.unpacker();
    let mut run = |progress: &dyn Progress| {
        archive::load(&mut *source, &engine.store, &platform, &*unpacker, progress)
    };
    let loaded = match args.quiet {
        true => run(&Silent),
        false => with_progress(|layers| run(layers)),
    };
    let what = args.input.as_ref().map_or("stdin".to_owned(), |path| path.display().to_string());
    for image in loaded.doing_with(|| format!("load {what}"))? {
        for name in &image.names {
            output::print(&format!("Loaded image: {}\n", name.familiar()))?;
        }
        if image.names.is_empty() {
            output::print(&format!("Loaded image ID: {}\n", image.image.record.id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn import(engine: &Engine, args: &Import) -> Result<ExitCode> {
    let file = (args.source != "-").then(|| std::path::Path::new(&args.source));
    let mut source = source(file)?;
    let platform = match &args.platform {
        Some(platform) => platform.parse()?,
        None => pull::host_platform()?,
    };
    let import = archive::Import {
        changes: args.change.clone(),
        message: args.message.clone(),
        reference: args.name.as_deref().map(str::parse).transpose()?,
        platform,
        created: Timestamp::now(),
    };
    let unpacker = engine.unpacker();
    let image = archive::import(&mut *source, &import, &engine.store, &*unpacker, &Silent)
        .doing_with(|| format!("import {}", args.source))?;
    output::print(&format!("{}\n", image.record.id))?;
    Ok(ExitCode::SUCCESS)
}
