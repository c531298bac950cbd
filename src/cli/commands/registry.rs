//! Registries: `pull` and `push`.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::Arc,
};

use super::super::{
    args::image::{Pull, Push, RegistryFlags},
    exit,
    output::{
        self,
        progress::{Layers, Show},
    },
    value,
};
use super::login::prompt_hidden;
use crate::{
    engine::{Engine, image::Want, registry::Reach},
    error::{Context as _, Error, Result},
    image::{
        Image, Progress, Silent,
        pull::{Policy, host_platform},
        push::{self, PushOptions},
        store::NameRecord,
        trust::SigningKey,
    },
    oci::{Platform, Reference},
};

/// Does `act`, which tells what it does on stderr.
pub(super) fn with_progress<T>(show: Show, act: impl FnOnce(&Layers) -> Result<T>) -> Result<T> {
    let layers = Layers::stderr(show);
    let done = act(&layers);
    layers.finish();
    done
}

/// What `--pull` and `--policy` mean; `None` if nothing.
pub(super) fn policy(text: &str) -> Option<Policy> {
    Some(match text {
        "always" => Policy::Always,
        "missing" => Policy::Missing,
        "newer" => Policy::Newer,
        "never" => Policy::Never,
        _ => return None,
    })
}

pub(super) fn reach(flags: &RegistryFlags) -> Result<Reach> {
    let delay = flags.retry_delay.as_deref().map(value::time::duration).transpose();
    Ok(Reach {
        tls_verify: flags.tls_verify,
        creds: flags.creds.clone(),
        authfile: flags.authfile.clone(),
        cert_dir: flags.cert_dir.clone(),
        retry: flags.retry,
        retry_delay: delay.doing("--retry-delay")?,
    })
}

pub fn pull(engine: &Engine, args: &Pull) -> Result<ExitCode> {
    let policy = policy(&args.policy).ok_or_else(|| {
        Error::invalid(format!("invalid --policy {:?}", args.policy))
            .hint("there are always, missing, newer and never")
    })?;
    no_content_trust(args.disable_content_trust)?;
    let want = Want {
        platform: platform(args)?,
        policy,
        reach: reach(&args.registry)?,
        verify_keys: args.verify_key.clone(),
    };
    let show = Show::parse(&args.progress, args.quiet)?;
    if !args.all_tags {
        let meanings = engine.meanings(&args.image)?;
        let name = pull_one(engine, &args.image, &meanings, &want, show)?;
        return output::print(&format!("{name}\n")).map(|()| ExitCode::SUCCESS);
    }
    let repository: Reference = args.image.parse()?;
    if repository.digest().is_some() || args.image.ends_with(&suffix(&repository)) {
        return Err(Error::invalid("tag can't be used with --all-tags/-a"));
    }
    for reference in engine.tags_there(&repository, &want.reach)? {
        let meanings = std::slice::from_ref(&reference);
        pull_one(engine, &reference.to_string(), meanings, &want, show)?;
        output::print(&format!("{reference}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `--platform`, or the machine's but for what other flags say.
fn platform(args: &Pull) -> Result<Option<String>> {
    if [&args.os, &args.arch, &args.variant].into_iter().all(Option::is_none) {
        return Ok(args.platform.clone());
    }
    let here = host_platform()?;
    let os = args.os.as_deref().unwrap_or(&here.os);
    let arch = args.arch.as_deref().unwrap_or(&here.architecture);
    // What this machine's processor can do says nothing of another one.
    let own = here.variant.filter(|_| args.arch.is_none());
    let variant = args.variant.clone().or(own);
    Ok(Some(Platform::new(os, arch, variant.as_deref()).to_string()))
}

/// `--disable-content-trust` of docker, which has none any more either.
fn no_content_trust(disabled: Option<bool>) -> Result<()> {
    match disabled {
        Some(false) => Err(Error::unsupported(
            "--disable-content-trust=false: there is no content trust",
        )
        .hint("`dhow pull --verify-key FILE` checks signatures, `push --sign-by KEY` makes them")),
        Some(true) | None => Ok(()),
    }
}

/// The tag as it would have been typed.
fn suffix(reference: &Reference) -> String {
    format!(":{}", reference.tag().unwrap_or_default())
}

/// Fetches what was typed; returns which of its `meanings` that was.
fn pull_one(
    engine: &Engine,
    typed: &str,
    meanings: &[Reference],
    want: &Want,
    show: Show,
) -> Result<Reference> {
    // A damaged one is no reason not to fetch a whole one.
    let known = |name: &Reference| engine.store.name(&name.stored()).ok().flatten();
    let before: Vec<_> = meanings.iter().map(known).collect();
    let image = match show {
        Show::Nothing => engine.obtain(typed, want, &Silent)?,
        Show::Auto | Show::Plain | Show::Json => {
            with_progress(show, |layers| engine.obtain(typed, want, layers))?
        }
    };
    let called = |name: &Reference| image.names.iter().any(|named| named.name == name.stored());
    let which = meanings.iter().position(called).unwrap_or(0);
    if matches!(show, Show::Auto | Show::Plain) {
        tell_outcome(&image, &meanings[which].stored(), before[which].as_ref());
    }
    Ok(meanings[which].clone())
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

pub fn push(engine: &Engine, args: &Push) -> Result<ExitCode> {
    let show = Show::parse(&args.progress, args.quiet)?;
    no_content_trust(args.disable_content_trust)?;
    let compression = args.compression.as_deref().map(push::compression).transpose()?;
    let options = PushOptions {
        access: reach(&args.registry)?.access()?,
        compression: compression.map(|(compression, _)| compression),
        chunked: compression.is_some_and(|(_, chunked)| chunked),
        force: args.force_compression.unwrap_or(compression.is_some()),
        level: args.compression_level,
        format: args.format.as_deref().map(str::parse).transpose()?,
        platform: args.platform.as_deref().map(str::parse).transpose()?,
        sign_by: signing_key(args)?,
    };
    let target = target(args)?;
    let targets = match args.all_tags {
        true if args.destination.is_some() || args.image.ends_with(&suffix(&target)) => {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        true => engine.tags_here(&target)?,
        false => vec![target],
    };
    if show != Show::Nothing && show != Show::Json {
        let repository = targets.first().map(Reference::repository).unwrap_or_default();
        exit::note(&format!("The push refers to repository [{repository}]"));
    }
    for target in targets {
        let typed = if args.all_tags { target.to_string() } else { args.image.clone() };
        push_one(engine, args, (&typed, &target), &options, show)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The key of `--sign-by`. Its password, if it has one, is in a file, in cosign's variable, or asked
/// for.
fn signing_key(args: &Push) -> Result<Option<Arc<SigningKey>>> {
    let Some(path) = &args.sign_by else { return Ok(None) };
    let password = || {
        if let Some(file) = &args.sign_passphrase_file {
            let text = fs::read_to_string(file).at(file).doing("read the password")?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        if let Some(password) = env::var_os("COSIGN_PASSWORD") {
            let password = password.into_string();
            return password.map_err(|_| Error::invalid("COSIGN_PASSWORD is no text"));
        }
        if !io::stdin().is_terminal() {
            return Err(Error::invalid("the key has a password")
                .hint("give --sign-passphrase-file FILE, or COSIGN_PASSWORD in the environment"));
        }
        prompt_hidden(&format!("Password of {}: ", path.display()))
    };
    SigningKey::read(path, password).map(|key| Some(Arc::new(key)))
}

/// Where to push: what the image is called, unless a destination says otherwise.
fn target(args: &Push) -> Result<Reference> {
    let Some(destination) = &args.destination else {
        return args.image.parse().map_err(Error::from);
    };
    let bare = destination.strip_prefix("docker://").unwrap_or(destination);
    if let Some((transport, _)) = bare.split_once(':')
        && ["docker-archive", "oci", "oci-archive", "dir", "containers-storage", "docker-daemon"]
            .contains(&transport)
    {
        return Err(Error::unsupported(format!("push does not write to {transport}:"))
            .hint("`dhow save` writes archives and directories"));
    }
    bare.parse().map_err(Error::from)
}

fn push_one(
    engine: &Engine,
    args: &Push,
    (typed, target): (&str, &Reference),
    options: &PushOptions,
    show: Show,
) -> Result<()> {
    let run = |progress: &dyn Progress| engine.push(typed, target, options, progress);
    let pushed = match show {
        Show::Nothing => run(&Silent)?,
        Show::Auto | Show::Plain | Show::Json => with_progress(show, |layers| run(layers))?,
    };
    if let Some(file) = &args.digestfile {
        fs::write(file, pushed.digest.as_str()).at(file).doing("write the digest")?;
    }
    match show {
        Show::Nothing => output::print(&format!("{target}\n")),
        Show::Auto | Show::Plain | Show::Json => output::print(&format!(
            "{}: digest: {} size: {}\n",
            target.tag().unwrap_or_default(),
            pushed.digest,
            pushed.size
        )),
    }
}
