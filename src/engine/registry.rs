//! Registries: sending images there.

use std::{path::PathBuf, time::Duration};

use super::{Engine, image::no_such_image};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Progress, Store,
        push::{self, PushOptions, Pushed},
        registry::{Access, Client, Credentials, Registries},
    },
    oci::Reference,
};

/// How the user wants a registry to be reached; the environment and files say the rest.
#[derive(Debug, Clone)]
pub struct Reach {
    /// `false`: any certificate will do, and plain HTTP.
    pub tls_verify: bool,
    /// `USER[:PASSWORD]`, whatever the files say.
    pub creds: Option<String>,
    /// The one file to look for credentials in.
    pub authfile: Option<PathBuf>,
    /// Certificates for whichever registry it is.
    pub cert_dir: Option<PathBuf>,
    /// How often a failure is tried again.
    pub retry: Option<u32>,
    /// The wait before that.
    pub retry_delay: Option<Duration>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            tls_verify: true,
            creds: None,
            authfile: None,
            cert_dir: None,
            retry: None,
            retry_delay: None,
        }
    }
}

impl Reach {
    /// All that is known of how to get there.
    pub fn access(&self) -> Result<Access> {
        let mut access = Access::from_env(self.tls_verify)?;
        if let Some(creds) = &self.creds {
            access.given = Some(given(creds)?);
        }
        if let Some(file) = &self.authfile {
            if !file.exists() {
                return Err(Error::not_found(format!(
                    "credentials file {} does not exist",
                    file.display()
                ))
                .hint("`dhow login --authfile FILE` makes it"));
            }
            access.credentials = vec![file.clone()];
        }
        access.certificate_dir.clone_from(&self.cert_dir);
        if let Some(retry) = self.retry {
            access.tries = retry.saturating_add(1);
        }
        if let Some(delay) = self.retry_delay {
            access.pause = delay;
        }
        Ok(access)
    }
}

fn given(creds: &str) -> Result<Credentials> {
    let (user, password) = creds.split_once(':').unwrap_or((creds, ""));
    if user.is_empty() {
        return Err(Error::invalid("--creds wants USER:PASSWORD"));
    }
    Ok(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
}

impl Engine {
    /// Sends the image that `typed` means here to `target`.
    pub fn push(
        &self,
        typed: &str,
        target: &Reference,
        options: &PushOptions,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        not_local(target)?;
        let image = self.here(typed)?.ok_or_else(|| match typed.parse::<Reference>() {
            Ok(name) => push::no_such_name(&name),
            Err(_) => no_such_image(typed),
        })?;
        self.make_blobs(&image.record)?;
        push::push(&self.store, &image, target, options, progress)
    }

    /// What a name that was typed may mean, best first, as aliases and searched registries say.
    pub fn meanings(&self, typed: &str) -> Result<Vec<Reference>> {
        Registries::from_env()?.meanings(typed)
    }

    /// The tags that a repository has here.
    pub fn tags_here(&self, repository: &Reference) -> Result<Vec<Reference>> {
        not_local(repository)?;
        let tags = tags(&self.store, repository)?;
        if tags.is_empty() {
            return Err(Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                repository.familiar_repository()
            ))
            .hint("`dhow images` lists the images there are"));
        }
        Ok(tags)
    }

    /// The tags that a repository has in its registry.
    pub fn tags_there(&self, repository: &Reference, reach: &Reach) -> Result<Vec<Reference>> {
        not_local(repository)?;
        let access = reach.access()?;
        let source = access.registries.target(repository)?;
        let client = Client::of(&source, &access);
        let name = repository.repository();
        let tags = client.tags().doing_with(|| format!("list the tags of {name}"))?;
        tags.iter().map(|tag| Ok(format!("{name}:{tag}").parse::<Reference>()?)).collect()
    }
}

fn tags(store: &Store, repository: &Reference) -> Result<Vec<Reference>> {
    let names = store.names()?.into_iter().map(|named| named.name);
    let mine =
        |name: &Reference| name.repository() == repository.repository() && name.tag().is_some();
    Ok(names.filter(mine).collect())
}

/// `localhost` without a port is no registry: images made here are called so.
pub fn not_local(target: &Reference) -> Result<()> {
    if target.domain() != "localhost" {
        return Ok(());
    }
    Err(Error::invalid(format!("{} is not in a registry", target.familiar())).hint(
        "names that begin with localhost/ are this machine's own (localhost:PORT/ are not); name \
         the registry: `dhow push IMAGE REGISTRY/NAME:TAG`",
    ))
}
