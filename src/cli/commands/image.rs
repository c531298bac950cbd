//! Images: finding or fetching the one a container is made of.

use super::{super::args::container::ContainerFlags, create};
use crate::{
    engine::Engine,
    error::{Error, Result},
    image::Image,
};

/// The image to make a container of, and its name as it will be shown.
pub(super) fn obtain(engine: &Engine, flags: &ContainerFlags) -> Result<(Image, String)> {
    let (typed, _) = create::image_and_command(flags)?;
    match engine.store.resolve(typed)? {
        Some(image) => Ok((image, typed.to_owned())),
        None => Err(Error::not_found(format!("no such image: {typed}"))),
    }
}
