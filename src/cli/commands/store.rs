//! What becomes of the images that are here: `tag`, `untag`, `rmi`, `exists`, `prune`.

use std::{borrow::Cow, process::ExitCode};

use super::{
    super::{
        args::store::{Exists, Prune, Rmi, Tag, Untag},
        exit,
        output::{self, units},
        prompt,
    },
    prune::image_filters,
};
use crate::{
    engine::{
        Engine,
        image::remove::{Pruned, Removal},
    },
    error::{Kind, Result},
};

pub fn tag(engine: &Engine, args: &Tag) -> Result<ExitCode> {
    args.targets.iter().try_for_each(|target| engine.tag_image(&args.source, target))?;
    Ok(ExitCode::SUCCESS)
}

pub fn untag(engine: &Engine, args: &Untag) -> Result<ExitCode> {
    engine.untag_image(&args.image, &args.names)?;
    Ok(ExitCode::SUCCESS)
}

/// Podman's: 0 or 1, and not a word.
pub fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    let found = match engine.here(&args.image) {
        Err(err) if err.kind() != Kind::Invalid => return Err(err),
        found => found.is_ok_and(|image| image.is_some()),
    };
    Ok(exit::code((!found).into()))
}

pub fn rmi(engine: &Engine, args: &Rmi) -> Result<ExitCode> {
    let images = named_or_all(engine, &args.images, args.all)?;
    let mut failed = false;
    for typed in &*images {
        let removals = engine
            .image_for(typed, args.platform.as_deref())
            // A damaged one must be removable; what is wrong with it is told there.
            .map(drop)
            .or_else(|err| if err.kind() == Kind::Engine { Ok(()) } else { Err(err) })
            .and_then(|()| engine.remove_image(typed, args.force || args.all));
        match removals {
            Ok(removals) => output::print(&lines(&removals, "Untagged", "Deleted"))?,
            Err(err) if (args.force || args.ignore) && err.kind() == Kind::NotFound => {}
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

/// The images that were typed, or with `--all` the ids of those that are here.
pub(super) fn named_or_all<'a>(
    engine: &Engine,
    typed: &'a [String],
    all: bool,
) -> Result<Cow<'a, [String]>> {
    if !all {
        return Ok(typed.into());
    }
    let list = engine.store.list()?;
    Ok(list.into_iter().map(|image| image.record.id.to_string()).collect())
}

fn lines(removals: &[Removal], untagged: &str, deleted: &str) -> String {
    let line = |removal: &Removal| match removal {
        Removal::Untagged(name) => format!("{untagged}: {name}\n"),
        Removal::Deleted(digest) => format!("{deleted}: {digest}\n"),
    };
    removals.iter().map(line).collect()
}

pub fn prune(engine: &Engine, args: &Prune) -> Result<ExitCode> {
    let filters = image_filters(engine, &args.filter, &["dangling", "label", "label!", "until"])?;
    // Docker: dangling=false is another way to say -a.
    let all = args.all || filters.dangling() == Some(false);
    let warning = match all {
        true => "This will remove all images without at least one container associated to them.",
        false => "This will remove all dangling images.",
    };
    if !args.force && !prompt::agrees(warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = engine.prune_images(all, &filters.without_dangling())?;
    output::print(&tell(&pruned))?;
    output::print(&format!("Total reclaimed space: {}\n", units::human_size(pruned.reclaimed)))?;
    Ok(exit::code((!pruned.failures.is_empty()).into()))
}

/// What was pruned, in docker's words; failures go to stderr.
pub(super) fn tell(pruned: &Pruned) -> String {
    pruned.failures.iter().for_each(exit::warn);
    match pruned.removals.is_empty() {
        true => String::new(),
        false => {
            format!("Deleted Images:\n{}\n", lines(&pruned.removals, "untagged", "deleted"))
        }
    }
}
