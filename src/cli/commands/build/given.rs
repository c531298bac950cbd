//! What a build's steps are given beside the context: secrets, agents, rights.

use std::{
    collections::BTreeMap, env, fs, io::Read as _, os::unix::ffi::OsStringExt as _, path::PathBuf,
};

use crate::error::{Context as _, Error, Result};

/// BuildKit's limit, in bytes.
const SECRET_MAX: u64 = 500 << 10;

/// `--secret [type=file|env,]id=ID[,src=FILE][,env=NAME]`.
pub(super) fn secrets(list: &[String]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut secrets = BTreeMap::new();
    for text in list {
        let (id, value) = secret(text).doing_with(|| format!("--secret {text}"))?;
        secrets.insert(id, value);
    }
    Ok(secrets)
}

fn secret(text: &str) -> Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut name, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            return Err(Error::invalid(format!(
                "invalid field '{field}' must be a key=value pair"
            )));
        };
        let place = match key.to_ascii_lowercase().as_str() {
            "id" => &mut id,
            "src" | "source" => &mut file,
            "env" => &mut name,
            "type" if matches!(value, "file" | "env") => &mut kind,
            "type" => return Err(Error::invalid(format!("unsupported secret type {value:?}"))),
            other => return Err(Error::invalid(format!("unexpected key '{other}' in '{field}'"))),
        };
        *place = Some(value.to_owned());
    }
    let id =
        id.filter(|id| !id.is_empty()).ok_or_else(|| Error::invalid("a secret needs an id"))?;
    // Docker: what is not said is the variable of that name, if there is one, else the file.
    let variable = match (name, &file, kind.as_deref()) {
        (Some(name), ..) => Some(name),
        (None, Some(source), Some("env")) => Some(source.clone()),
        (None, None, Some("env")) => Some(id.clone()),
        (None, None, None) if env::var_os(&id).is_some() => Some(id.clone()),
        _ => None,
    };
    if let Some(name) = variable {
        let value = env::var_os(&name)
            .ok_or_else(|| Error::not_found(format!("the environment has no {name}")))?;
        return Ok((id, value.into_vec()));
    }
    let path = PathBuf::from(file.unwrap_or_else(|| id.clone()));
    let mut value = Vec::new();
    fs::File::open(&path)
        .at(&path)?
        .take(SECRET_MAX + 1)
        .read_to_end(&mut value)
        .at(&path)
        .doing("read")?;
    if value.len() as u64 > SECRET_MAX {
        return Err(Error::invalid(format!("invalid secret size: the maximum is {SECRET_MAX}")));
    }
    Ok((id, value))
}

/// `--ssh default|ID[=SOCKET]`.
pub(super) fn agents(list: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut agents = BTreeMap::new();
    for text in list {
        let (id, socket) = match text.split_once('=') {
            Some((id, socket)) => (id, Some(PathBuf::from(socket))),
            None => (text.as_str(), env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)),
        };
        let socket = socket.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| {
            Error::invalid(format!("--ssh {text}: invalid empty ssh agent socket"))
                .hint("start an agent that sets SSH_AUTH_SOCK, or name its socket: --ssh ID=SOCKET")
        })?;
        let socket = std::path::absolute(&socket).at(&socket)?;
        let meta = fs::metadata(&socket).at(&socket).doing_with(|| format!("--ssh {text}"))?;
        use std::os::unix::fs::FileTypeExt as _;
        if !meta.file_type().is_socket() {
            return Err(Error::unsupported(format!(
                "--ssh {text}: {} is no agent's socket",
                socket.display()
            ))
            .hint("keys are for an agent: ssh-add them, and pass the agent on"));
        }
        agents.insert(if id.is_empty() { "default" } else { id }.to_owned(), socket);
    }
    Ok(agents)
}

/// What steps may have beyond the usual.
#[derive(Debug, Default)]
pub(super) struct Rights {
    pub(super) insecure: bool,
    pub(super) host_network: bool,
    /// These, or all if there are none.
    pub(super) devices: Option<Vec<String>>,
}

/// `--allow`.
pub(super) fn rights(list: &[String]) -> Result<Rights> {
    let mut rights = Rights::default();
    for right in list {
        match right.split_once('=').unwrap_or((right, "")) {
            ("security.insecure", "") => rights.insecure = true,
            ("network.host", "") => rights.host_network = true,
            ("device", "") => rights.devices = Some(Vec::new()),
            ("device", name) => match &mut rights.devices {
                Some(all) if all.is_empty() => {}
                devices => devices.get_or_insert_default().push(name.to_owned()),
            },
            _ => {
                return Err(Error::unsupported(format!("--allow {right} is not in this version"))
                    .hint("there are security.insecure, network.host and device[=NAME]"));
            }
        }
    }
    Ok(rights)
}
