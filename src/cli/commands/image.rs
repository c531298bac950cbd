//! Images from elsewhere: `pull`, `load`, `import`, and the image a container is made of.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{
    super::{
        args::{
            container::ContainerFlags,
            image::{Import, Load},
        },
        exit,
        output::{self, progress::Show},
    },
    create,
    registry::{policy, with_progress},
    seldom,
};
use crate::{
    engine::{Engine, image::Want},
    error::{Context as _, Error, Result},
    image::{Image, Progress, Silent, archive, builtin, pull::Policy},
    oci::{Platform, Reference},
    sys::tty,
};

/// The image to make a container of, and its name as it will be shown.
pub(super) fn obtain(engine: &Engine, flags: &ContainerFlags) -> Result<(Image, String)> {
    let (typed, _) = create::image_and_command(flags)?;
    let policy = policy(&flags.pull).ok_or_else(|| {
        Error::invalid(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\", \"newer\" or \"never\"",
            flags.pull
        ))
    })?;
    let want = Want {
        platform: seldom::platform(flags)?,
        policy,
        reach: seldom::reach(flags)?,
        verify_keys: Vec::new(),
    };
    let here = engine.here(typed)?.is_some();
    let image = if flags.quiet || here && policy == Policy::Missing || policy == Policy::Never {
        engine.obtain(typed, &want, &Silent)?
    } else {
        let name: Reference = typed.parse()?;
        if !here && !builtin::is_builtin(&name) {
            exit::note(&format!("Unable to find image '{}' locally", name.familiar()));
        }
        with_progress(Show::Auto, |layers| engine.obtain(typed, &want, layers))?
    };
    Ok((image, typed.to_owned()))
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
    let mut source: Box<dyn std::io::Read> = match args.input.as_deref() {
        Some(dir) if dir.is_dir() => Box::new(archive::DirTar::new(dir)?),
        file => source(file)?,
    };
    let platform = args.platform.as_deref().map(str::parse).transpose()?;
    let unpacker = engine.unpacker();
    let mut run = |progress: &dyn Progress| {
        let source = archive::Source { bytes: &mut *source, path: args.input.as_deref() };
        archive::load(source, &engine.store, platform.as_ref(), &*unpacker, progress)
    };
    let loaded = match args.quiet {
        true => run(&Silent),
        false => with_progress(Show::Auto, |layers| run(layers)),
    };
    let what = args.input.as_ref().map_or("stdin".to_owned(), |path| path.display().to_string());
    for image in loaded.doing_with(|| format!("load {what}"))? {
        let id = &image.image.record.id;
        let called = image.names.first().map_or_else(|| id.to_string(), Reference::familiar);
        engine.note_image(id, "load", &called);
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
        // What the machine can do beyond its architecture the tar need not ask for.
        None => Platform::new(
            args.os.as_deref().unwrap_or("linux"),
            args.arch.as_deref().unwrap_or(std::env::consts::ARCH),
            args.variant.as_deref(),
        ),
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
    engine.note_image(&image.record.id, "import", args.name.as_deref().unwrap_or_default());
    output::print(&format!("{}\n", image.record.id))?;
    Ok(ExitCode::SUCCESS)
}
