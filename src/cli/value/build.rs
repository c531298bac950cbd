//! What `build` is told: outputs, annotations, attestations.

use std::path::PathBuf;

use super::fields;
use crate::{
    engine::build::{
        Annotation, CachePlace, CacheTo, Export, ExportKind, Filter, Level, Property, Target, Test,
        TextKey,
    },
    error::{Context as _, Error, Result},
    image::{
        archive::save::Format,
        push::{self, Packing},
    },
    oci::{Reference, media_type::Compression},
};

/// `--output`: `type=KIND,key=value...`, a directory, or `-` for a tar on stdout.
pub fn output(text: &str) -> Result<Export> {
    let export = |kind| Export { kind, names: Vec::new(), packing: None, annotations: Vec::new() };
    if !text.contains('=') && !text.is_empty() {
        return Ok(export(match text {
            "-" => ExportKind::Files { tar: true, to: Target::Stdout, split: None },
            dir => ExportKind::Files { tar: false, to: Target::Path(dir.into()), split: None },
        }));
    }
    let mut fields = Fields::read(text)?;
    let kind = fields.take("type").ok_or_else(|| {
        Error::invalid(format!("invalid output {text:?}: type is required"))
            .hint("types are local, tar, oci, docker, image, registry and cacheonly")
    })?;
    let to = fields.take("dest").map(|dest| match dest.as_str() {
        "-" => Target::Stdout,
        path => Target::Path(PathBuf::from(path)),
    });
    let mut made = export(match (kind.as_str(), to) {
        ("local", Some(to @ Target::Path(_))) => {
            ExportKind::Files { tar: false, to, split: fields.switch("platform-split")? }
        }
        ("local", _) => {
            return Err(Error::invalid("dest is required for local exporter")
                .hint("--output type=local,dest=DIR"));
        }
        ("tar", to) => ExportKind::Files {
            tar: true,
            to: to.unwrap_or(Target::Stdout),
            split: fields.switch("platform-split")?,
        },
        ("oci", to) => ExportKind::Archive {
            format: Format::Oci,
            tar: fields.switch("tar")?.unwrap_or(true),
            to: to.unwrap_or(Target::Stdout),
        },
        ("docker", Some(to)) => ExportKind::Archive {
            format: Format::Docker,
            tar: fields.switch("tar")?.unwrap_or(true),
            to,
        },
        ("docker", None) => ExportKind::Image { push: false },
        ("image", None) => ExportKind::Image { push: fields.switch("push")?.unwrap_or(false) },
        ("registry", None) => {
            if fields.switch("push")? == Some(false) {
                return Err(Error::invalid(
                    "type=registry pushes: push=false makes no sense of it",
                ));
            }
            ExportKind::Image { push: true }
        }
        ("image" | "registry", Some(_)) => {
            return Err(Error::invalid(format!("type={kind} has no dest"))
                .hint("type=oci and type=docker are written to files"));
        }
        ("cacheonly", None) => ExportKind::Nothing,
        (other, _) => {
            return Err(Error::invalid(format!("unsupported exporter {other:?}"))
                .hint("types are local, tar, oci, docker, image, registry and cacheonly"));
        }
    });
    if !matches!(made.kind, ExportKind::Files { .. } | ExportKind::Nothing) {
        fields.image(&mut made)?;
    }
    fields.finish(&kind)?;
    Ok(made)
}

/// `--cache-from`: `type=local,src=DIR`, `type=registry,ref=NAME`, or a name alone.
pub fn cache_from(text: &str) -> Result<CachePlace> {
    if !text.contains('=') {
        return Ok(CachePlace::Registry(cache_name(text)?));
    }
    let mut fields = Fields::read(text)?;
    let kind = fields.take("type").unwrap_or_default();
    let place = match kind.as_str() {
        "registry" => CachePlace::Registry(cache_name(&needed(&mut fields, &kind, "ref")?)?),
        "local" => {
            let dir = PathBuf::from(needed(&mut fields, &kind, "src")?);
            CachePlace::Directory(dir, fields.take("tag").unwrap_or_else(|| "latest".into()))
        }
        other => return Err(no_such_cache("cache importer", other)),
    };
    match fields.0.first() {
        None => Ok(place),
        Some((key, _)) => {
            Err(Error::unsupported(format!("--cache-from type={kind}: {key} is not supported"))
                .hint("keys are ref for type=registry, src and tag for type=local"))
        }
    }
}

/// `--cache-to`: `type=inline`, `type=local,dest=DIR`, `type=registry,ref=NAME`, or a name alone.
pub fn cache_to(text: &str) -> Result<CacheTo> {
    let text = if text.contains('=') { text } else { &format!("type=registry,ref={text}") };
    let mut fields = Fields::read(text)?;
    let kind = fields.take("type").unwrap_or_default();
    let place = match kind.as_str() {
        "inline" => None,
        "registry" => Some(CachePlace::Registry(cache_name(&needed(&mut fields, &kind, "ref")?)?)),
        "local" => {
            let dir = PathBuf::from(needed(&mut fields, &kind, "dest")?);
            let tag = fields.take("tag").unwrap_or_else(|| "latest".into());
            Some(CachePlace::Directory(dir, tag))
        }
        other => return Err(no_such_cache("cache exporter", other)),
    };
    let Some(place) = place else {
        return match fields.0.first() {
            None => Ok(CacheTo::Inline),
            Some((key, _)) => {
                Err(Error::unsupported(format!("--cache-to type=inline: {key} is not supported")))
            }
        };
    };
    let all = match fields.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(Error::invalid(format!("unknown cache mode {other:?}"))
                .hint("min has the image's own layers, max those of all stages"));
        }
    };
    let ignore_error = fields.switch("ignore-error")?.unwrap_or(false);
    for key in ["oci-mediatypes", "image-manifest"] {
        if fields.switch(key)? == Some(false) {
            return Err(Error::unsupported(format!("--cache-to: {key}=false is not supported"))
                .hint("the cache is an OCI image manifest"));
        }
    }
    let packing = fields.packing()?.unwrap_or(Packing {
        compression: Compression::Zstd,
        level: None,
        force: false,
        format: None,
    });
    match fields.0.first() {
        None => Ok(CacheTo::Place { place, all, packing, ignore_error }),
        Some((key, _)) => Err(Error::unsupported(format!(
            "--cache-to type={kind}: {key} is not supported"
        ))
        .hint("keys are ref, dest, tag, mode, ignore-error, compression, compression-level and force-compression")),
    }
}

fn needed(fields: &mut Fields, kind: &str, key: &str) -> Result<String> {
    let value = fields.take(key).filter(|value| !value.is_empty());
    value.ok_or_else(|| Error::invalid(format!("type={kind} needs {key}=")))
}

fn cache_name(text: &str) -> Result<Reference> {
    let name: Reference = text.parse().doing_with(|| format!("invalid cache name {text:?}"))?;
    crate::engine::registry::not_local(&name)?;
    Ok(name)
}

fn no_such_cache(what: &str, kind: &str) -> Error {
    match kind {
        "gha" | "s3" | "azblob" => {
            Error::unsupported(format!("{what} {kind} is not in this version"))
                .hint("type=registry keeps a cache in a registry, type=local in a directory")
        }
        other => Error::invalid(format!("unknown {what}: {other:?}"))
            .hint("there are registry, local and, to write, inline"),
    }
}

/// `key=value,...` in CSV: a field with a comma stands in quotes.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(text: &str) -> Result<Self> {
        let split = |field: String| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
            None => Err(Error::invalid(format!("invalid value {field}: expected key=value"))),
        };
        Ok(Self(fields(text)?.into_iter().map(split).collect::<Result<_>>()?))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.0.extract_if(.., |(known, _)| known == key).map(|(_, value)| value).last()
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>> {
        let text = self.take(key);
        match text.as_deref() {
            None => Ok(None),
            Some("true" | "1" | "") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format!("non-bool value {other:?} for {key}"))),
        }
    }

    /// What all kinds of images share.
    fn image(&mut self, made: &mut Export) -> Result<()> {
        if let Some(names) = self.take("name") {
            let names = names.split(',').filter(|name| !name.is_empty()).map(name);
            made.names = names.collect::<Result<_>>()?;
        }
        made.packing = self.packing()?;
        // What is always so: times are the build's, layers are unpacked, images are stored.
        for key in ["rewrite-timestamp", "unpack", "store"] {
            if self.switch(key)? == Some(false) {
                return Err(Error::unsupported(format!("{key}=false is not supported")));
            }
        }
        let prefix = "annotation";
        for (key, value) in self.0.extract_if(.., |(key, _)| key.starts_with(prefix)) {
            let (level, name) = key
                .split_once('.')
                .ok_or_else(|| Error::invalid(format!("invalid output key {key}")))?;
            let level = level.strip_prefix(prefix).unwrap_or_default().trim_start_matches('-');
            let level = if level.is_empty() { "manifest" } else { level };
            made.annotations.extend(annotation(&format!("{level}:{name}={value}"))?);
        }
        Ok(())
    }

    /// How layers shall be packed, if anything says so.
    fn packing(&mut self) -> Result<Option<Packing>> {
        let compression = match self.take("compression").as_deref() {
            None => None,
            Some("uncompressed") => Some(Compression::None),
            Some(other) => match push::compression(other)? {
                (compression, false) => Some(compression),
                (_, true) => {
                    return Err(Error::unsupported(format!("compression {other} is for push"))
                        .hint("`dhow push --compression zstd:chunked` packs what was built so"));
                }
            },
        };
        let level = self.take("compression-level");
        let level = level.map(|text| {
            text.parse()
                .map_err(|_| Error::invalid(format!("compression-level: {text:?} is no number")))
        });
        let level = level.transpose()?;
        let force = self.switch("force-compression")?;
        let oci = self.switch("oci-mediatypes")?;
        if compression.is_some() || level.is_some() || force.is_some() || oci.is_some() {
            return Ok(Some(Packing {
                compression: compression.unwrap_or(Compression::Gzip),
                level,
                force: force.unwrap_or(false),
                format: oci.map(|oci| if oci { push::Format::Oci } else { push::Format::Docker }),
            }));
        }
        Ok(None)
    }

    fn finish(self, kind: &str) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => {
                Err(Error::unsupported(format!("--output type={kind}: {key} is not supported"))
                    .hint("keys of images are name, dest, tar, push, compression, compression-level, force-compression, oci-mediatypes and annotation.KEY"))
            }
        }
    }
}

/// What an image shall be called.
pub fn name(text: &str) -> Result<Reference> {
    let name: Reference = text.parse().doing_with(|| format!("invalid tag {text:?}"))?;
    match name.digest().is_some() {
        true => Err(Error::invalid(format!("invalid tag \"{name}\": a digest cannot be given"))),
        false => Ok(name),
    }
}

/// `--annotation [LEVEL[,LEVEL][[PLATFORM]]:]KEY=VALUE`.
pub fn annotation(text: &str) -> Result<Vec<Annotation>> {
    let invalid = |said: &str| {
        Error::invalid(format!("invalid annotation {text:?}: {said}"))
            .hint("write KEY=VALUE, perhaps behind manifest:, index:, manifest-descriptor: or index-descriptor:")
    };
    let (left, value) = text.split_once('=').ok_or_else(|| invalid("expected key=value"))?;
    let is_level = |text: &str| {
        let start = text.split('[').next().unwrap_or_default();
        start.split(',').all(|word| level(word).is_some())
    };
    let (levels, key) = match left.split_once(':').filter(|(levels, _)| is_level(levels)) {
        Some((levels, key)) => (levels, key),
        None => ("manifest", left),
    };
    if key.is_empty() {
        return Err(invalid("the key is empty"));
    }
    let (levels, platform) = match levels.split_once('[') {
        Some((levels, platform)) => {
            let platform = platform.strip_suffix(']').ok_or_else(|| invalid("missing ]"))?;
            (levels, Some(platform.parse()?))
        }
        None => (levels, None),
    };
    let one = |level| Annotation {
        level,
        platform: platform.clone(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    Ok(levels.split(',').filter_map(level).map(one).collect())
}

fn level(text: &str) -> Option<Level> {
    Some(match text {
        "manifest" => Level::Manifest,
        "index" => Level::Index,
        "manifest-descriptor" => Level::ManifestDescriptor,
        "index-descriptor" => Level::IndexDescriptor,
        _ => return None,
    })
}

/// A `--filter` of `buildx du` and `builder prune`: `KEY=VALUE`, `KEY!=VALUE`, `KEY~=PATTERN`, or a
/// property (BuildKit, `buildx du --filter`).
pub fn kept(text: &str) -> Result<Filter> {
    let invalid = || {
        Error::invalid(format!("invalid filter {text:?}"))
            .hint("there are until, id, type and description with =, != or ~=, and inuse, mutable, immutable, shared and private")
    };
    let (key, operator, value) = match text.find(['=', '!', '~']) {
        Some(at) => {
            let (key, rest) = text.split_at(at);
            let operators = ["==", "!=", "~=", "="];
            let operator = operators.into_iter().find(|operator| rest.starts_with(operator));
            let operator = operator.ok_or_else(invalid)?;
            (key, operator, &rest[operator.len()..])
        }
        None => (text, "", ""),
    };
    let key = match key {
        "id" => TextKey::Id,
        "type" => TextKey::Kind,
        "description" => TextKey::Description,
        "parent" | "parents" => {
            return Err(Error::unsupported(format!("filter {text:?} is not supported"))
                .hint("steps are kept without what they stand on"));
        }
        property => {
            let wanted = match (operator, value) {
                ("", _) | ("=" | "==", "true" | "1") | ("!=", "false" | "0") => true,
                ("=" | "==", "false" | "0") | ("!=", "true" | "1") => false,
                _ => return Err(invalid()),
            };
            return match property {
                "inuse" | "shared" => Ok(Filter::Is(Property::InUse, wanted)),
                "private" => Ok(Filter::Is(Property::InUse, !wanted)),
                "mutable" => Ok(Filter::Is(Property::Mutable, wanted)),
                "immutable" => Ok(Filter::Is(Property::Mutable, !wanted)),
                _ => Err(invalid()),
            };
        }
    };
    let pattern = || {
        regex_lite::Regex::new(value)
            .map_err(|err| Error::invalid(format!("invalid filter {text:?}: {err}")))
    };
    let test = match operator {
        // An id may be cut short.
        "=" if key == TextKey::Id => Test::Like(pattern()?),
        "=" | "==" => Test::Equal,
        "!=" => Test::Other,
        "~=" => Test::Like(pattern()?),
        _ => return Err(invalid()),
    };
    Ok(Filter::Text { key, test, value: value.to_owned() })
}

/// `--provenance` and `--attest type=provenance`: `None` if there is to be none, else whether all
/// is to be told.
pub fn provenance(text: &str) -> Result<Option<bool>> {
    match text {
        "" | "true" | "1" => return Ok(Some(false)),
        "false" | "0" => return Ok(None),
        _ => {}
    }
    let mut fields = Fields::read(text)?;
    if fields.switch("disabled")? == Some(true) {
        return Ok(None);
    }
    let max = match fields.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(Error::invalid(format!("invalid provenance mode {other:?}"))
                .hint("there are min and max"));
        }
    };
    if let Some(version) = fields.take("version").filter(|version| version != "v0.2") {
        return Err(Error::unsupported(format!(
            "provenance of version {version} is not in this version"
        ))
        .hint("it is SLSA v0.2"));
    }
    match fields.0.first() {
        None => Ok(Some(max)),
        Some((key, _)) => Err(Error::unsupported(format!("--provenance: {key} is not supported"))),
    }
}

/// `--sbom`: whether there is to be one.
pub fn sbom(text: &str) -> Result<bool> {
    match text {
        "" | "true" | "1" => return Ok(true),
        "false" | "0" => return Ok(false),
        _ => {}
    }
    let mut fields = Fields::read(text)?;
    if fields.switch("disabled")? == Some(true) {
        return Ok(false);
    }
    match fields.0.first() {
        None => Ok(true),
        Some((key, _)) => Err(Error::unsupported(format!("--sbom: {key} is not supported"))
            .hint("dhow reads the databases of dpkg and apk itself, and runs no scanner's image")),
    }
}

/// One `--attest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attest {
    /// As [`provenance`] has it.
    Provenance(Option<bool>),
    Sbom(bool),
}

/// `--attest type=KIND,...`: as the flag of that kind.
pub fn attest(text: &str) -> Result<Attest> {
    let mut fields = Fields::read(text)?;
    let kind = fields.take("type");
    let rest: Vec<String> = fields.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
    match kind.as_deref() {
        Some("provenance") => provenance(&rest.join(",")).map(Attest::Provenance),
        Some("sbom") => sbom(&rest.join(",")).map(Attest::Sbom),
        Some(other) => Err(Error::unsupported(format!("unknown attestation type {other:?}"))),
        None => Err(Error::invalid(format!(
            "invalid attestation {text:?}: attestation type not specified"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_in_all_their_forms() {
        let kind = |text: &str| output(text).expect(text).kind;
        let path = |text: &str| Target::Path(text.into());
        assert_eq!(kind("out"), ExportKind::Files { tar: false, to: path("out"), split: None });
        assert_eq!(kind("-"), ExportKind::Files { tar: true, to: Target::Stdout, split: None });
        assert_eq!(
            kind("type=local,dest=a"),
            ExportKind::Files { tar: false, to: path("a"), split: None }
        );
        assert_eq!(
            kind("type=tar,dest=-"),
            ExportKind::Files { tar: true, to: Target::Stdout, split: None }
        );
        assert_eq!(kind("type=docker"), ExportKind::Image { push: false });
        assert_eq!(kind("type=image,push=true"), ExportKind::Image { push: true });
        assert_eq!(kind("type=registry"), ExportKind::Image { push: true });
        let oci = output("type=oci,dest=x,\"name=a:1,b:2\",compression=zstd,annotation.k.x=v,annotation-index.j=w").expect("oci");
        assert_eq!(oci.names.len(), 2);
        assert_eq!(oci.packing.expect("packing").compression, Compression::Zstd);
        assert_eq!(
            (oci.annotations[0].key.as_str(), oci.annotations[1].level),
            ("k.x", Level::Index)
        );
        for (bad, said) in [
            ("type=local", "dest is required"),
            ("type=local,dest=-", "dest is required"),
            ("dest=x", "type is required"),
            ("", "expected key=value"),
            ("type=nope", "unsupported exporter"),
            ("type=oci,dest=x,bogus=1", "bogus is not supported"),
            ("type=tar,name=x", "name is not supported"),
            ("type=image,dest=x", "has no dest"),
            ("type=oci,compression=lzma", "unknown compression"),
            ("type=oci,compression-level=x", "no number"),
            ("type=oci,tar=maybe", "non-bool"),
            ("type=oci,\"dest=x", "quote is not closed"),
            ("type=oci,name=UPPER", "invalid tag"),
        ] {
            let err = output(bad).expect_err(bad).to_string();
            assert!(err.contains(said), "{bad}: {err}");
        }
    }

    #[test]
    fn caches_in_all_their_forms() {
        let name = |text: &str| CachePlace::Registry(text.parse().expect("name"));
        let dir = |path: &str, tag: &str| CachePlace::Directory(path.into(), tag.into());
        assert_eq!(cache_from("host:5/a").expect("name"), name("host:5/a"));
        assert_eq!(cache_from("type=registry,ref=host:5/a:b").expect("ref"), name("host:5/a:b"));
        assert_eq!(cache_from("type=local,src=d,tag=t").expect("dir"), dir("d", "t"));
        assert_eq!(cache_to("type=inline").expect("inline"), CacheTo::Inline);
        let to = cache_to("type=local,dest=d,mode=max,ignore-error=true,compression=gzip");
        let CacheTo::Place { place, all, packing, ignore_error } = to.expect("to") else {
            panic!("not inline")
        };
        assert_eq!((place, all, ignore_error), (dir("d", "latest"), true, true));
        assert_eq!(packing.compression, Compression::Gzip);
        for (bad, said) in [
            ("type=gha", "not in this version"),
            ("type=nope", "unknown cache exporter"),
            ("type=registry", "needs ref="),
            ("type=local,dest=", "needs dest="),
            ("type=inline,mode=max", "mode is not supported"),
            ("type=local,dest=d,mode=all", "unknown cache mode"),
            ("type=local,dest=d,oci-mediatypes=false", "not supported"),
            ("type=local,dest=d,bogus=1", "bogus is not supported"),
            ("UPPER", "invalid cache name"),
        ] {
            let err = cache_to(bad).expect_err(bad).to_string();
            assert!(err.contains(said), "{bad}: {err}");
        }
        for bad in ["type=inline", "type=local", "type=local,src=d,mode=max", "type=s3,ref=x"] {
            cache_from(bad).expect_err(bad);
        }
    }

    #[test]
    fn filters_of_what_is_kept() {
        let text = |text: &str| match kept(text).expect(text) {
            Filter::Text { key, test, value } => (key, test, value),
            Filter::Is(..) => panic!("{text}"),
        };
        assert!(matches!(text("id=ab"), (TextKey::Id, Test::Like(_), _)));
        assert!(matches!(text("type=regular"), (TextKey::Kind, Test::Equal, v) if v == "regular"));
        assert!(matches!(text("type!=regular"), (_, Test::Other, v) if v == "regular"));
        assert!(matches!(text("description~=^RUN"), (TextKey::Description, Test::Like(_), _)));
        for (text, property, wanted) in [
            ("inuse", Property::InUse, true),
            ("private", Property::InUse, false),
            ("mutable=false", Property::Mutable, false),
            ("immutable!=true", Property::Mutable, true),
        ] {
            let found = kept(text).expect(text);
            assert!(matches!(found, Filter::Is(p, w) if p == property && w == wanted), "{text}");
        }
        for bad in ["bogus=1", "mutable=perhaps", "id", "id!x", "description~=(", "parents=x", ""] {
            kept(bad).expect_err(bad);
        }
    }

    #[test]
    fn annotations_and_attestations() {
        let one = |text: &str| annotation(text).expect(text).remove(0);
        assert_eq!(one("a:b=c").key, "a:b");
        assert_eq!(one("index:a=c=d").value, "c=d");
        assert_eq!(annotation("index,manifest:a=").expect("two").len(), 2);
        let of = one("manifest-descriptor[linux/arm64]:a=b");
        assert_eq!(of.platform, Some("linux/arm64".parse().expect("platform")));
        for bad in ["a", "=b", "index:=x", "index[linux:a=b"] {
            annotation(bad).expect_err(bad);
        }
        assert_eq!(provenance("mode=max").expect("max"), Some(true));
        assert_eq!(provenance("true").expect("true"), Some(false));
        assert_eq!(provenance("false").expect("false"), None);
        let max = Attest::Provenance(Some(true));
        assert_eq!(attest("type=provenance,mode=max").expect("max"), max);
        let none = Attest::Provenance(None);
        assert_eq!(attest("type=provenance,disabled=true").expect("none"), none);
        assert_eq!(attest("type=sbom,disabled=true").expect("none"), Attest::Sbom(false));
        assert_eq!(attest("type=sbom").expect("sbom"), Attest::Sbom(true));
        for bad in ["mode=x", "mode=max,bogus=1", "version=v1"] {
            provenance(bad).expect_err(bad);
        }
        for bad in ["type=sbom,generator=x", "type=x", "mode=max"] {
            attest(bad).expect_err(bad);
        }
        assert!(sbom("true").expect("sbom") && !sbom("false").expect("none"));
    }
}
