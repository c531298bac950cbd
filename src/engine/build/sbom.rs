//! `--sbom`: the packages that an image holds, as its distribution's package manager has them noted, in an
//! SPDX document (spdx.github.io/spdx-spec/v2.3).
//!
//! Read are the databases of dpkg (also the split one of images without dpkg) and apk, from the
//! layers. What else is in an image is not looked for: its files say too little of where they came
//! from. Like everything that a build makes it holds no time but the build's.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Built;
use crate::{
    error::{Context as _, Error, Result},
    overlay::{self, Stack},
    sys::fs::{Dir, list},
};

pub(super) const PREDICATE: &str = "https://spdx.dev/Document";

/// Of a package database; dpkg needs about a kilobyte a package.
const DATABASE_MAX: u64 = 64 << 20;
const DPKG: &str = "/var/lib/dpkg/status";
const DPKG_PARTS: &str = "/var/lib/dpkg/status.d";
const APK: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];
/// Whose databases are not read.
const RPM: [&str; 2] = ["/var/lib/rpm", "/usr/lib/sysimage/rpm"];

/// One package.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    /// Of its purl: `deb` or `apk`.
    kind: &'static str,
    name: String,
    version: String,
    architecture: String,
    maintainer: String,
    license: String,
}

/// The distribution, as `os-release(5)` names it.
#[derive(Debug, Default)]
struct Distribution {
    id: String,
    version: String,
}

/// The document of an image.
pub(super) fn document(built: &Built<'_>, epoch: i64) -> Result<Value> {
    let layers = built.record.layers.iter().rev();
    let lowers: Vec<PathBuf> =
        layers.map(|layer| built.addition.layer_diff(&layer.chain_id)).collect();
    let image = built.record.manifest.as_str();
    let (distribution, packages) = match lowers.first() {
        None => Default::default(),
        Some(top) => {
            let (upper, work) = (top.clone(), top.clone());
            let stack = Stack { lowers, upper, work, user_xattr: false, volatile: false };
            read(&stack).doing("list the packages of the image")?
        }
    };
    Ok(spdx(image, epoch, &distribution, &packages))
}

fn read(stack: &Stack) -> Result<(Distribution, Vec<Package>)> {
    let text = |path: &str| -> Result<Option<String>> {
        let bytes = stack.read_small(path, DATABASE_MAX).map_err(Error::from);
        let bytes = bytes.doing_with(|| format!("read {path}"))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    for path in RPM {
        let dirs = overlay::directory(&stack.lowers, path).map_err(Error::from)?;
        for dir in dirs.into_iter().flatten() {
            if !list(Dir::from_fd(dir))?.is_empty() {
                return Err(Error::unsupported(
                    "--sbom: its packages are RPM's, whose database dhow does not read",
                )
                .hint("run a scanner (syft, trivy) on the image, and attach what it says"));
            }
        }
    }
    let mut packages = Vec::new();
    if let Some(status) = text(DPKG)? {
        packages.extend(dpkg(&status));
    }
    let parts = overlay::directory(&stack.lowers, DPKG_PARTS).map_err(Error::from)?;
    let mut names = std::collections::BTreeSet::new();
    for dir in parts.into_iter().flatten() {
        names.extend(list(Dir::from_fd(dir))?.into_iter().map(|(name, _)| name));
    }
    for name in names {
        let name = name.to_string_lossy();
        // Beside each is the list of its files' digests.
        if !name.ends_with(".md5sums")
            && let Some(status) = text(&format!("{DPKG_PARTS}/{name}"))?
        {
            packages.extend(dpkg(&status));
        }
    }
    for path in APK {
        if let Some(installed) = text(path)? {
            packages.extend(apk(&installed));
        }
    }
    packages.sort();
    packages.dedup();
    let release = match text("/etc/os-release")? {
        Some(text) => text,
        None => text("/usr/lib/os-release")?.unwrap_or_default(),
    };
    Ok((distribution(&release), packages))
}

fn distribution(text: &str) -> Distribution {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    Distribution { id: value("ID"), version: value("VERSION_ID") }
}

/// Paragraphs of `NAME: value` lines; further lines of a value are left out.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|paragraph| {
        let fields = paragraph.lines().filter(|line| !line.starts_with([' ', '\t']));
        fields.filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect()
    })
}

/// `deb-control(5)`, and dpkg's own field Status.
fn dpkg(text: &str) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        let field = |name: &str| fields.get(name).map_or_else(String::new, |it| (*it).to_owned());
        // What was removed is still known of.
        let is_here = fields.get("Status").is_none_or(|status| status.ends_with(" installed"));
        let package = Package {
            kind: "deb",
            name: field("Package"),
            version: field("Version"),
            architecture: field("Architecture"),
            maintainer: field("Maintainer"),
            license: String::new(),
        };
        (is_here && !package.name.is_empty()).then_some(package)
    };
    paragraphs(text).filter_map(package).collect()
}

/// `apk-v2(5)`: fields of one letter.
fn apk(text: &str) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        let field = |name: &str| fields.get(name).map_or_else(String::new, |it| (*it).to_owned());
        let package = Package {
            kind: "apk",
            name: field("P"),
            version: field("V"),
            architecture: field("A"),
            maintainer: field("m"),
            license: field("L"),
        };
        (!package.name.is_empty()).then_some(package)
    };
    paragraphs(text).filter_map(package).collect()
}

fn spdx(image: &str, epoch: i64, distribution: &Distribution, packages: &[Package]) -> Value {
    const NOBODY: &str = "NOASSERTION";
    let created = Timestamp::from_second(epoch).unwrap_or(Timestamp::UNIX_EPOCH);
    let hex = image.rsplit(':').next().unwrap_or_default();
    let top = "SPDXRef-DocumentRoot-Image";
    let mut all = vec![json!({
        "SPDXID": top, "name": image, "versionInfo": image, "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": NOBODY, "filesAnalyzed": false, "licenseConcluded": NOBODY,
        "licenseDeclared": NOBODY, "copyrightText": NOBODY,
        "checksums": [{ "algorithm": "SHA256", "checksumValue": hex }],
    })];
    let mut relations = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
        "relatedSpdxElement": top,
    })];
    for (at, package) in packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}-{}-{at}", package.kind, idstring(&package.name));
        relations.push(json!({
            "spdxElementId": top, "relationshipType": "CONTAINS", "relatedSpdxElement": id,
        }));
        let mut entry = json!({
            "SPDXID": id, "name": package.name, "versionInfo": package.version,
            "supplier": supplier(&package.maintainer), "downloadLocation": NOBODY,
            "filesAnalyzed": false, "licenseConcluded": NOBODY, "licenseDeclared": NOBODY,
            "copyrightText": NOBODY,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": purl(package, distribution),
            }],
        });
        if !package.license.is_empty() {
            entry["licenseComments"] = json!(format!("The package says: {}", package.license));
        }
        all.push(entry);
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image,
        "documentNamespace": format!("https://spdx.org/spdxdocs/dhow-{hex}"),
        "creationInfo": {
            "created": created.to_string(),
            "creators": [format!("Tool: dhow-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": all,
        "relationships": relations,
    })
}

/// An identifier has letters, digits, `.` and `-` (SPDX 2.3, 3.2).
fn idstring(name: &str) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    name.chars().map(|c| if is_fine(c) { c } else { '-' }).collect()
}

/// `Name <address>` as `Person: Name (address)`.
fn supplier(maintainer: &str) -> String {
    match maintainer.split_once('<') {
        _ if maintainer.is_empty() => "NOASSERTION".into(),
        Some((name, mail)) => {
            format!("Person: {} ({})", name.trim(), mail.trim_end_matches('>').trim())
        }
        None => format!("Person: {maintainer}"),
    }
}

/// A package URL (ECMA-427).
fn purl(package: &Package, distribution: &Distribution) -> String {
    let mut purl = format!("pkg:{}", package.kind);
    if !distribution.id.is_empty() {
        purl.push_str(&format!("/{}", encoded(&distribution.id)));
    }
    purl.push_str(&format!("/{}@{}", encoded(&package.name), encoded(&package.version)));
    let mut sign = '?';
    let distro = match distribution.version.is_empty() {
        true => distribution.id.clone(),
        false => format!("{}-{}", distribution.id, distribution.version),
    };
    for (key, value) in [("arch", &package.architecture), ("distro", &distro)] {
        if !value.is_empty() {
            purl.push_str(&format!("{sign}{key}={}", encoded(value)));
            sign = '&';
        }
    }
    purl
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into());
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read() {
        let status = "Package: libc6\nStatus: install ok installed\nMaintainer: GNU <g@x.org>\n\
                      Architecture: amd64\nVersion: 1:2.41+deb~1\nDescription: x\n more: text\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: split\nVersion: 3\n";
        let found = dpkg(status);
        assert_eq!(found.len(), 2);
        let debian = distribution("NAME=x\nID=debian\nVERSION_ID=\"13\"\n");
        assert_eq!(
            purl(&found[0], &debian),
            "pkg:deb/debian/libc6@1%3A2.41%2Bdeb~1?arch=amd64&distro=debian-13"
        );
        assert_eq!(purl(&found[1], &Distribution::default()), "pkg:deb/split@3");
        assert_eq!(supplier(&found[0].maintainer), "Person: GNU (g@x.org)");
        let found = apk("C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\nR:ld.so\n\n");
        assert_eq!((found[0].name.as_str(), found[0].license.as_str()), ("musl", "MIT"));
        assert_eq!(idstring("libstdc++6"), "libstdc--6");
        for hostile in ["", "\n\n\n", ":::\n:\n", "Package:\n", "P:\n\nV", "Package"] {
            assert!(dpkg(hostile).is_empty() && apk(hostile).is_empty(), "{hostile:?}");
        }
    }

    #[test]
    fn a_document_names_each_once() {
        let found = dpkg("Package: a\nVersion: 1\n\nPackage: b+\nVersion: 2\n");
        let document = spdx("sha256:00ff", 7, &Distribution::default(), &found);
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:07Z");
        let packages = document["packages"].as_array().expect("packages");
        let ids: std::collections::BTreeSet<_> =
            packages.iter().filter_map(|package| package["SPDXID"].as_str()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(document["relationships"].as_array().map(Vec::len), Some(3));
    }
}
