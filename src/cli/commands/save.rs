//! `save` and `image cp`.

use std::process::ExitCode;

use super::{
    super::{
        args::store::{Copy, Save},
        output::{self, progress::Show},
    },
    registry::with_progress,
};
use crate::{
    engine::{
        Engine,
        image::{
            copy::{self, Place},
            save::{format, to_path, to_writer},
        },
    },
    error::{Error, Result},
    image::{Progress, Silent, archive::save},
    sys::tty,
};

pub fn save(engine: &Engine, args: &Save) -> Result<ExitCode> {
    let (format, as_directory) = format(&args.format)?;
    let how = save::Save { format, uncompressed: args.uncompressed };
    let images = engine.images_to_save(&args.images, args.platform.as_deref())?;
    match &args.output {
        Some(path) => to_path(&engine.store, &images, how, as_directory, path)?,
        None if as_directory => {
            return Err(Error::invalid(format!("{} is a directory", args.format))
                .hint("-o DIR says where to make it"));
        }
        None if tty::is_terminal(std::io::stdout()) => {
            return Err(Error::invalid("cowardly refusing to save to a terminal")
                .hint("use the -o flag or redirect"));
        }
        None => to_writer(&engine.store, &images, how, std::io::stdout().lock())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn copy(engine: &Engine, args: &Copy) -> Result<ExitCode> {
    let (from, to) = (Place::parse(&args.source)?, Place::parse(&args.destination)?);
    let how = copy::Copy {
        platform: args.platform.clone(),
        tls_verify: args.tls_verify,
        uncompressed: args.uncompressed,
    };
    let run = |progress: &dyn Progress| engine.copy_image(&from, &to, &how, progress);
    let image = match args.quiet {
        true => run(&Silent)?,
        false => with_progress(Show::Auto, |layers| run(layers))?,
    };
    // An archive on standard output is all there is.
    if !matches!(&to, Place::Files { path, .. } if path.as_os_str() == "-") {
        output::print(&format!("{}\n", image.record.id))?;
    }
    Ok(ExitCode::SUCCESS)
}
