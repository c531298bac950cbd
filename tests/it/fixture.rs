//! Images as text.
//!
//! One line is one entry of a layer, `---` begins the next layer, and a line that begins with a
//! capital is the image's configuration:
//!
//! ```text
//! /bin/busybox     0755 @host:/bin/busybox      a file of this machine
//! /bin/{sh,ls}     -> busybox                   symbolic links
//! /bin/hard        => bin/busybox               a hard link
//! /etc/passwd      0644 root:x:0:0::/root:/bin/sh
//! /tmp/            1777                         a directory
//! /srv/mail        0600 8:12 line\nline         an owner; `\n`, `\t`, `\0`, `\xNN`, `\\` are understood
//! /old             whiteout
//! /lib/            opaque
//! /pipe            0644 fifo
//! /dev/null        0666 char 1:3                or `block`
//! /ping            0755 xattr security.capability=\x01… ; the rest as for a file
//! "../../etc/x"    0644 a name to be taken as it is
//! ARCHITECTURE arm64   another machine's
//! CMD ["sh"]       also ENTRYPOINT, SHELL (JSON); ENV A=b; USER; WORKDIR; LABEL a=b; EXPOSE 80/tcp; VOLUME /v; STOPSIGNAL
//! ```
//!
//! A file's content ends with a newline unless it is empty or ends in `\c`.

use std::{collections::BTreeMap, fs, io::Write};

use dhow::oci::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// A whole userland in one binary; every test's usual image.
pub(crate) const BUSY: &str = "
    /bin/busybox 0755 @host:/bin/busybox
    /bin/{sh,ash,ls,cat,echo,true,false,sleep,id,env,pwd,ps,kill,hostname,mount,umount,mkdir,rmdir} -> busybox
    /bin/{rm,cp,mv,ln,touch,chmod,chown,stat,readlink,test,printf,head,tail,wc,grep,sed,awk,sort,tr,cut} -> busybox
    /bin/{dd,df,du,find,seq,tty,stty,trap,ip,nc,wget,httpd,sync,nproc,uname,date,mknod,tar,xargs,yes,usleep,su} -> busybox
    /etc/passwd 0644 root:x:0:0:root:/root:/bin/sh\\nuser:x:1000:1000::/home/user:/bin/sh
    /etc/group 0644 root:x:0:\\nuser:x:1000:\\nextra:x:2000:user
    /root/ 0700
    /home/user/ 0755 1000:1000
    /tmp/ 1777
    CMD [\"sh\"]
    ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
";

/// How an OCI archive's layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What it adds to a layer's media type.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// An image read from text: uncompressed layers, bottom first, and the `config` object.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Value,
    /// The word of image-spec for what it runs on.
    pub(crate) architecture: String,
}

impl Image {
    pub(crate) fn parse(text: &str) -> Self {
        let mut config = BTreeMap::new();
        let mut architecture = host_architecture().to_owned();
        let mut layers = vec![Builder::new(Vec::new())];
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if line == "---" {
                layers.push(Builder::new(Vec::new()));
            } else if let Some(word) = line.strip_prefix("ARCHITECTURE ") {
                word.clone_into(&mut architecture);
            } else if line.starts_with(|c: char| c.is_ascii_uppercase()) {
                configure(&mut config, line);
            } else {
                append(layers.last_mut().unwrap(), line);
            }
        }
        let layers = layers.into_iter().map(|layer| layer.into_inner().unwrap()).collect();
        Self { layers, config: json!(config), architecture }
    }

    /// The image configuration document (image-spec config.md).
    pub(crate) fn config_json(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|l| Digest::of(l).to_string()).collect();
        let history: Vec<Value> =
            diff_ids.iter().map(|_| json!({ "created_by": "fixture" })).collect();
        serde_json::to_vec(&json!({
            "architecture": self.architecture, "os": "linux", "created": "2001-02-03T04:05:06Z",
            "config": self.config, "history": history,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))
        .unwrap()
    }

    /// What `docker save` writes.
    pub(crate) fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config = self.config_json();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let layer_name = |layer: &Vec<u8>| format!("{}/layer.tar", Digest::of(layer).hex());
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [tagged(name)],
            "Layers": self.layers.iter().map(layer_name).collect::<Vec<_>>(),
        }]);
        let layers = self.layers.iter().map(|layer| (layer_name(layer), layer.clone()));
        let files = [
            ("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()),
            (config_name, config),
        ];
        plain_tar(files.into_iter().chain(layers))
    }

    /// An OCI image layout in a tar (image-spec image-layout.md).
    pub(crate) fn oci_archive(&self, name: &str, compression: Compression) -> Vec<u8> {
        let mut files = vec![
            ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("blobs/".into(), Vec::new()),
            ("blobs/sha256/".into(), Vec::new()),
        ];
        let mut blob = |media_type: &str, bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let descriptor = json!({
                "mediaType": format!("application/vnd.oci.image.{media_type}"),
                "digest": digest.to_string(), "size": bytes.len(),
            });
            files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
            descriptor
        };
        let suffix = compression.suffix();
        let layers: Vec<Value> = (self.layers.iter())
            .map(|l| blob(&format!("layer.v1.tar{suffix}"), compress(l, compression)))
            .collect();
        let config = blob("config.v1+json", self.config_json());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let mut manifest = blob("manifest.v1+json", serde_json::to_vec(&manifest).unwrap());
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tagged(name) });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        files.push(("index.json".into(), serde_json::to_vec(&index).unwrap()));
        plain_tar(files.into_iter())
    }
}

/// One layer's tar from its lines.
pub(crate) fn layer(text: &str) -> Vec<u8> {
    Image::parse(text).layers.remove(0)
}

pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

fn tagged(name: &str) -> String {
    let tag = name.rsplit('/').next().unwrap().contains(':');
    if tag { name.to_owned() } else { format!("{name}:latest") }
}

/// The word of image-spec for this machine.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn plain_tar(files: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        let is_dir = name.ends_with('/');
        header.set_entry_type(if is_dir { EntryType::Directory } else { EntryType::Regular });
        header.set_mode(if is_dir { 0o755 } else { 0o644 });
        header.set_uid(nix::unistd::geteuid().as_raw().into()); // skopeo gives its copy this owner
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// One `KEY value` line of the image's configuration.
fn configure(config: &mut BTreeMap<&'static str, Value>, line: &str) {
    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
    let value = value.trim();
    let parsed = || serde_json::from_str(value).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    match key {
        "CMD" => drop(config.insert("Cmd", parsed())),
        "ENTRYPOINT" => drop(config.insert("Entrypoint", parsed())),
        "SHELL" => drop(config.insert("Shell", parsed())),
        "USER" => drop(config.insert("User", json!(value))),
        "WORKDIR" => drop(config.insert("WorkingDir", json!(value))),
        "STOPSIGNAL" => drop(config.insert("StopSignal", json!(value))),
        "ENV" => {
            config.entry("Env").or_insert(json!([])).as_array_mut().unwrap().push(json!(value));
        }
        "LABEL" => {
            let (name, text) = value.split_once('=').unwrap();
            config.entry("Labels").or_insert(json!({}))[name] = json!(text);
        }
        "EXPOSE" => config.entry("ExposedPorts").or_insert(json!({}))[value] = json!({}),
        "VOLUME" => config.entry("Volumes").or_insert(json!({}))[value] = json!({}),
        _ => panic!("{line:?}: no such configuration"),
    }
}

/// One entry; `{a,b}` in the last part of a symbolic link's name stands for several.
fn append(tar: &mut Builder<Vec<u8>>, line: &str) {
    let (name, rest) = name_of(line);
    if let (Some(target), Some((before, names))) = (rest.strip_prefix("-> "), name.split_once('{'))
    {
        for alternative in names.trim_end_matches('}').split(',') {
            append_entry(tar, &format!("{before}{alternative}"), &format!("-> {target}"));
        }
    } else {
        append_entry(tar, &name, rest);
    }
}

/// A quoted name is taken as it is; others lose their leading slash.
fn name_of(line: &str) -> (String, &str) {
    if let Some(quoted) = line.strip_prefix('"') {
        let (name, rest) =
            quoted.split_once('"').unwrap_or_else(|| panic!("{line:?}: no end quote"));
        return (name.to_owned(), rest.trim_start());
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = name.strip_prefix('/').unwrap_or_else(|| panic!("{line:?}: names begin with /"));
    (if name.is_empty() { "./".to_owned() } else { name.to_owned() }, rest.trim_start())
}

fn append_entry(tar: &mut Builder<Vec<u8>>, name: &str, rest: &str) {
    let mut header = Header::new_gnu();
    header.set_mtime(981_173_106);
    header.set_size(0);
    let (mode, rest) = match rest.split_once(' ').unwrap_or((rest, "")) {
        (word, after) if word.len() >= 3 && word.bytes().all(|b| b.is_ascii_digit()) => {
            (Some(u32::from_str_radix(word, 8).unwrap()), after.trim_start())
        }
        _ => (None, rest),
    };
    let (owner, rest) = match rest.split_once(' ').unwrap_or((rest, "")) {
        (word, after) if numbers(word).is_some() => (numbers(word), after),
        _ => (None, rest),
    };
    let (uid, gid) = owner.unwrap_or_default();
    header.set_uid(uid);
    header.set_gid(gid);

    let (xattr, rest) = match rest.strip_prefix("xattr ") {
        Some(after) => {
            let (pair, after) = after.split_once(' ').unwrap_or((after, ""));
            (pair.split_once('='), after)
        }
        None => (None, rest),
    };
    if let Some((key, value)) = xattr {
        let key = format!("SCHILY.xattr.{key}");
        tar.append_pax_extensions([(key.as_str(), unescape(value).as_slice())]).unwrap();
    }

    let mut content = Vec::new();
    let mut name = name.to_owned();
    let kind = if let Some(target) = rest.strip_prefix("-> ") {
        header.set_link_name_literal(target).unwrap();
        EntryType::Symlink
    } else if let Some(target) = rest.strip_prefix("=> ") {
        header.set_link_name_literal(target).unwrap();
        EntryType::Link
    } else if rest == "whiteout" {
        name = beside(&name, |last| format!(".wh.{last}"));
        EntryType::Regular
    } else if rest == "opaque" {
        name = format!("{}/.wh..wh..opq", name.trim_end_matches('/'));
        EntryType::Regular
    } else if rest == "fifo" {
        EntryType::Fifo
    } else if let Some((kind, numbers)) = device(rest) {
        header.set_device_major(u32::try_from(numbers.0).unwrap()).unwrap();
        header.set_device_minor(u32::try_from(numbers.1).unwrap()).unwrap();
        kind
    } else if name.ends_with('/') {
        EntryType::Directory
    } else {
        content = match rest.strip_prefix("@host:") {
            Some(path) => fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}")),
            None => text_content(rest),
        };
        header.set_size(content.len() as u64);
        EntryType::Regular
    };
    header.set_entry_type(kind);
    let usual = if kind.is_dir() { 0o755 } else { 0o644 };
    header.set_mode(mode.unwrap_or(if kind.is_symlink() { 0o777 } else { usual }));
    append_named(tar, &mut header, &name, &content);
}

/// Writes the name unexamined: hostile layers are made of names that `tar` would refuse.
fn append_named(tar: &mut Builder<Vec<u8>>, header: &mut Header, name: &str, content: &[u8]) {
    let field = &mut header.as_old_mut().name;
    match field.get_mut(..name.len()) {
        Some(field) => field.copy_from_slice(name.as_bytes()),
        None => tar.append_pax_extensions([("path", name.as_bytes())]).unwrap(),
    }
    header.set_cksum();
    tar.append(header, content).unwrap();
}

fn beside(name: &str, rename: impl Fn(&str) -> String) -> String {
    match name.trim_end_matches('/').rsplit_once('/') {
        Some((dir, last)) => format!("{dir}/{}", rename(last)),
        None => rename(name.trim_end_matches('/')),
    }
}

fn device(rest: &str) -> Option<(EntryType, (u64, u64))> {
    let (kind, rest) = rest.split_once(' ')?;
    let kind = match kind {
        "char" => EntryType::Char,
        "block" => EntryType::Block,
        _ => return None,
    };
    Some((kind, numbers(rest)?))
}

/// `1:3`.
fn numbers(word: &str) -> Option<(u64, u64)> {
    let (a, b) = word.split_once(':')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

fn text_content(rest: &str) -> Vec<u8> {
    match rest.strip_suffix("\\c") {
        Some(bare) => unescape(bare),
        None if rest.is_empty() => Vec::new(),
        None => [unescape(rest), b"\n".to_vec()].concat(),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == b'\\') {
            (other, false) => other,
            (_, true) => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                other => panic!("{text:?}: unknown escape {:?}", other.map(char::from)),
            },
        });
    }
    out
}
