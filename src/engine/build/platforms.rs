//! `--all-platforms`: what a target could be built for.

use super::BuildRequest;
use crate::{
    build::Base,
    engine::{Engine, imagetools::platform_of},
    error::{Context as _, Error, Result},
    oci::Platform,
};

impl Engine {
    /// The platforms that every base image of the target is there for, at least one.
    pub fn platforms_of_build(&self, request: &BuildRequest<'_>) -> Result<Vec<Platform>> {
        let file = request.read()?;
        let target = file.target(request.target.as_deref())?;
        let mut common: Option<Vec<Platform>> = None;
        for stage in super::needed(&file, target, request)? {
            let stage = &file.stages[stage];
            let (Base::Image(image), None) = (&stage.base, &stage.platform) else { continue };
            if request.contexts.contains_key(&image.to_ascii_lowercase()) {
                continue;
            }
            let found = self
                .platforms_of(image, request)
                .doing_with(|| format!("find out what platforms {image} is for"))?;
            common = Some(match common {
                None => found,
                Some(known) => known.into_iter().filter(|one| found.contains(one)).collect(),
            });
        }
        match common {
            Some(platforms) if platforms.is_empty() => {
                Err(Error::unsupported("there is no platform that all base images are for"))
            }
            Some(platforms) => Ok(platforms),
            // Without a base image any would do.
            None => Ok(vec![request.platform.clone()]),
        }
    }

    /// Those of a list that is here, else what its registry has, else of the image that is here.
    fn platforms_of(&self, image: &str, request: &BuildRequest<'_>) -> Result<Vec<Platform>> {
        let name = image.parse().ok();
        let list = name.map(|name| self.store.list_record(&name)).transpose()?.flatten();
        let entries = match list {
            Some(list) => Ok(list.entries),
            None => self.entries_of(image, true, &request.reach),
        };
        let entries = match (entries, self.here(image)?) {
            (Ok(entries), _) => entries,
            (Err(_), Some(image)) => return Ok(vec![image.record.platform]),
            (Err(err), None) => return Err(err),
        };
        Ok(entries.iter().filter_map(|entry| platform_of(&entry.platform)).collect())
    }
}
