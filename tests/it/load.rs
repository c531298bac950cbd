//! `dhow load` and `dhow import`: archives of others, and hostile ones.

use std::{collections::BTreeSet, fs, io::Read, process::Command};

use serde_json::json;

use crate::{
    env::{Env, Run},
    fixture::{self, BUSY, Compression, Image, compress},
    needs::{self, needs},
};

/// The archive with each file's content changed.
pub(crate) fn rewrite(archive: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    rewrite_names(archive, |name, content| (name.to_owned(), change(name, content)))
}

/// The archive with each file's name and content changed.
pub(crate) fn rewrite_names(
    archive: &[u8],
    mut change: impl FnMut(&str, Vec<u8>) -> (String, Vec<u8>),
) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let (name, content) = change(&name, content);
        header.set_size(content.len() as u64);
        out.append_data(&mut header, name, &content[..]).unwrap();
    }
    out.into_inner().unwrap()
}

// ---- archives of others -------------------------------------------------------------------------

#[test]
fn archives_come_in_any_packing_from_file_or_stdin() {
    let image = Image::parse(BUSY);
    let archives = [
        ("docker", image.docker_archive("app:1")),
        ("plain", image.oci_archive("app:1", Compression::None)),
        ("gzip", image.oci_archive("app:1", Compression::Gzip)),
        ("zstd", image.oci_archive("app:1", Compression::Zstd)),
    ];
    for (kind, archive) in archives {
        for packing in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let env = Env::new();
            let packed = compress(&archive, packing);
            if packing == Compression::None {
                let file = env.file("a", packed);
                let run = env.run(&format!("load -i {file}")).exits(0);
                assert_eq!(run.stdout, "Loaded image: app:1\n", "{kind}");
            } else {
                env.run_with_stdin("load -q", packed).prints("Loaded image: app:1\n");
            }
            env.run("run --rm --network none app:1 echo hello").prints("hello\n");
        }
    }
}

#[test]
fn skopeos_and_buildahs_archives_are_understood() {
    needs!(tool("skopeo"));
    let env = Env::new();
    let source = env.file("s.tar", Image::parse(BUSY).oci_archive("s", Compression::Gzip));
    for (transport, name, says) in [
        ("docker-archive", "x/app:2", "Loaded image: x/app:2\n"),
        ("oci-archive", "localhost/app:2", "Loaded image: localhost/app:2\n"),
        ("docker-archive", "", "Loaded image ID: sha256:"),
    ] {
        let target = env.path("t.tar");
        let suffix = if name.is_empty() { String::new() } else { format!(":{name}") };
        let out = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", &format!("oci-archive:{source}")])
            .arg(format!("{transport}:{}{suffix}", target.display()))
            .env("HOME", env.path(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let run = env.run(&format!("load -q -i {}", target.display())).ok();
        assert!(run.stdout.starts_with(says), "{}", run.stdout);
        fs::remove_file(target).unwrap();
    }
}

#[test]
fn one_archive_holds_several_images_with_several_names() {
    let env = Env::new();
    let (one, two) = (Image::parse("/a 0644 one"), Image::parse("/a 0644 two"));
    let archive = docker_archive(&[
        (&one, json!(["one:1", "docker.io/library/one:2", "localhost/uno:1"])),
        (&two, json!(null)),
    ]);
    let run = env.run_with_stdin("load -q", archive).ok();
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(
        lines[..3],
        ["Loaded image: one:1", "Loaded image: one:2", "Loaded image: localhost/uno:1"]
    );
    assert!(lines[3].starts_with("Loaded image ID: sha256:"), "{}", run.stdout);
    assert_eq!(env.run("images -q").text().lines().count(), 2);
    env.run("images --filter dangling=true --format '{{.Repository}}'").prints("<none>\n");
}

#[test]
fn only_what_images_consist_of_stays_of_an_archive() {
    let archive = Image::parse(BUSY).oci_archive("app:1", Compression::Gzip);
    // The index names an index, which names the image: what docker writes for several platforms.
    let mut names = (String::new(), String::new());
    let mut inner = Vec::new();
    let nested = rewrite_names(&archive, |name, content| {
        if name != "index.json" {
            return (name.to_owned(), content);
        }
        inner = content;
        let digest = dhow::oci::Digest::of(&inner);
        names = (format!("blobs/sha256/{}", digest.hex()), "docker.io/library/app:1".into());
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest, "size": inner.len(),
            "annotations": { "io.containerd.image.name": names.1 },
        }] });
        (name.to_owned(), index.to_string().into_bytes())
    });
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(inner.len() as u64);
    tar.append_data(&mut header, &names.0, &inner[..]).unwrap();
    // A member more, before the others.
    let mut whole = tar.into_inner().unwrap();
    whole.truncate(whole.len() - 1024);
    whole.extend(nested);
    let env = Env::new();
    env.run_with_stdin("load -q", whole).prints("Loaded image: app:1\n");
    env.run("system check").exits(0);
    // Layer, configuration and manifest.
    assert_eq!(blobs(&env), 3);

    // Of two images only one is copied.
    let two = docker_archive(&[
        (&Image::parse("/a 0644 one"), json!(["one:1"])),
        (&Image::parse("/a 0644 two"), json!(["two:1"])),
    ]);
    let path = env.file("two.tar", two);
    env.run(&format!("image cp -q docker-archive:{path}:one:1 localhost/copy:1")).exits(0);
    assert_eq!(blobs(&env), 6);
    env.run("system check").exits(0);
}

/// `docker save` of images with whatever they are called.
fn docker_archive(images: &[(&Image, serde_json::Value)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    let mut manifest = Vec::new();
    for (index, (image, names)) in images.iter().enumerate() {
        let layer = format!("{index}/layer.tar");
        let config = format!("{index}.config");
        put(&layer, &image.layers[0]);
        put(&config, &image.config_json());
        manifest.push(json!({ "Config": config, "RepoTags": names, "Layers": [layer] }));
    }
    put("manifest.json", json!(manifest).to_string().as_bytes());
    tar.into_inner().unwrap()
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let env = Env::new();
    let rootfs = compress(&fixture::layer(BUSY.split("CMD").next().unwrap()), Compression::Gzip);
    let file = env.file("rootfs.tgz", rootfs);
    let id = env
        .run(&format!(
            "import -c 'CMD [\"sh\", \"-c\", \"echo $GREETING from $PWD\"]' -c 'ENV GREETING=hello' \
             -c 'WORKDIR /tmp' -c 'USER user' -m imported {file} own:1"
        ))
        .text();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    env.run("images --no-trunc -q own:1").prints(&format!("{id}\n"));
    env.run("run --rm --network none own:1").prints("hello from /tmp\n");
    env.run("run --rm --network none own:1 id -u").prints("1000\n");
    env.run_with_stdin("import -", fs::read(&file).unwrap()).shows("sha256:");
    env.run(&format!("import -c 'RUN true' {file}")).fails_with(1, "RUN");
    env.run("import /missing.tar").fails_with(1, "/missing.tar");
    env.run_with_stdin("import - own:2", "this is no tar").fails_with(1, "import -");
    env.run("images own:2 -q").prints("");
}

#[test]
fn layers_beyond_a_page_of_mount_options_are_stacked() {
    let env = Env::new();
    let more: String = (1..230).map(|n| format!("\n---\n/n/{n} 0644")).collect();
    env.image("many", &format!("{BUSY}{more}"));
    env.run("run --rm --network none many sh -c 'ls /n | wc -l'").prints("229\n");
}

#[test]
fn an_image_without_layers_holds_what_is_mounted() {
    let env = Env::new();
    let empty = Image { layers: Vec::new(), ..Image::parse("") };
    env.run_with_stdin("load -q", empty.docker_archive("empty")).exits(0);
    env.run("run --rm --network none -v /bin/busybox:/busybox:ro empty /busybox ls /")
        .shows("busybox\n");
    env.run("run --rm --network none empty /x").fails_with(127, "exec /x: No such file");
}

#[test]
fn debian_is_as_it_was_packed_and_works() {
    needs!(debian);
    let env = Env::new();
    let packed = needs::debian_tar();
    env.run(&format!("import {} debian:own", packed.display())).exits(0);
    let inside =
        |script: &str| env.run(&format!("run --rm --network none debian:own sh -ec '{script}'"));

    let list = "tar --numeric-owner -tv";
    let seen = inside(&format!("cd /; tar -c ./etc ./home ./root ./usr ./var | {list}")).text();
    let mut host = Command::new("sh");
    host.args(["-c", &format!("{list} -f {}", packed.display())]).env("TZ", "UTC");
    let packed = String::from_utf8(host.output().unwrap().stdout).unwrap();
    let (seen, packed) = (files_of(&seen), files_of(&packed));
    assert!(packed.len() > 2000, "{} files", packed.len());
    assert_eq!(packed.difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new(), "are missing");
    assert_eq!(seen.difference(&packed).collect::<Vec<_>>(), Vec::<&String>::new(), "are too many");

    // What package managers do: accounts, owners, modes, links.
    inside("dpkg --audit; useradd --create-home someone; su someone -c id")
        .prints_lines(["uid=1000(someone) gid=1000(someone) groups=1000(someone)"]);
    inside("cd /home; touch a; chown 7:12 a; chmod 4750 a; ln a b; stat -c %a:%u:%g:%h b")
        .prints("4750:7:12:2\n");
}

/// The lines of `tar -tv` but for what a container has of its own, and for the two names of a
/// hard link, of which either may come first.
fn files_of(listing: &str) -> BTreeSet<String> {
    let linked: Vec<&str> = (listing.lines().filter(|line| line.starts_with('h')))
        .flat_map(|line| line.split_whitespace().skip(5))
        .filter(|word| word.starts_with("./"))
        .flat_map(|name| name.rsplit('/').next())
        .collect();
    let own = ["./etc/", "./etc/hosts", "./etc/hostname", "./etc/resolv.conf", "./etc/mtab"];
    let wanted = |line: &&str| {
        let name = line.split_whitespace().nth(5).unwrap();
        let beneath = ["./etc/", "./home/", "./root/", "./usr/", "./var/"];
        beneath.iter().any(|dir| name.starts_with(dir))
            && !own.contains(&name)
            && !linked.iter().any(|last| name.rsplit('/').next() == Some(last))
    };
    listing
        .lines()
        .filter(wanted)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// An OCI archive in which everything is known by its SHA-512.
fn long_digests(text: &str) -> Vec<u8> {
    let image = Image::parse(text);
    let digest = |bytes: &[u8]| {
        let mut hasher = dhow::oci::Hasher::like(
            &format!("sha512:{}", "0".repeat(128)).parse::<dhow::oci::Digest>().unwrap(),
        );
        hasher.update(bytes);
        hasher.finish()
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    let mut blob = |kind: &str, content: &[u8]| {
        put(&format!("blobs/sha512/{}", digest(content).hex()), content);
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(content), "size": content.len(),
        })
    };
    let packed = image.layers.iter().map(|layer| compress(layer, Compression::Gzip));
    let layers: Vec<_> = packed.map(|packed| blob("layer.v1.tar+gzip", &packed)).collect();
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "architecture": image.architecture, "os": "linux", "config": image.config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "app:1" });
    put(
        "index.json",
        json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string().as_bytes(),
    );
    tar.into_inner().unwrap()
}

#[test]
fn long_digests_are_as_good() {
    let env = Env::new();
    // Larger than what is held in memory, and smaller.
    let archive = long_digests(&format!("{BUSY}\n---\n/b 0644 b"));
    env.run_with_stdin("load -q", archive.clone()).prints("Loaded image: app:1\n");
    env.run("run --rm --network none app:1 cat /b").prints("b\n");
    env.run("system check").shows("The store is whole: 1 images, 2 layers, 4 blobs");
    let id = env.run("images -q --no-trunc app:1").text();
    assert!(id.starts_with("sha512:"), "{id}");
    env.run(&format!("image exists {id}")).exits(0).prints("");
    let saved = env.run("save --format oci-archive app:1").exits(0);
    Env::new().run_with_stdin("load -q", saved.bytes).prints("Loaded image: app:1\n");
    env.run("rmi app:1").shows("Deleted: sha512:");
    env.run("system check").shows("The store is whole: 0 images, 0 layers, 0 blobs");
    let lie = rewrite(&archive, |name, mut content| {
        if name.starts_with("blobs/sha512/") && content.starts_with(&[0x1f, 0x8b]) {
            let last = content.len() - 1;
            content[last] ^= 1;
        }
        content
    });
    refused("other content", lie, "other content than its name says");
}

// ---- archives that are broken or lie ------------------------------------------------------------

/// Loads what must be refused; nothing of it stays.
#[track_caller]
fn refused(what: &str, archive: Vec<u8>, says: &str) -> Run {
    let env = Env::new();
    let canary = env.file("canary", "untouched");
    let run = env.run_with_stdin("load", archive).exits(1).prints("");
    assert!(run.stderr.contains(says), "{what} should be told with {says:?}: {}", run.stderr);
    assert_eq!(run.stderr.matches("Error: ").count(), 1, "{what}: {}", run.stderr);
    for dir in ["images", "refs", "layers", "staging"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{what}: {dir} in the store");
    }
    assert_eq!(blobs(&env), 0, "{what}: blobs in the store");
    assert_eq!(fs::read_to_string(canary).unwrap(), "untouched", "{what}");
    run
}

/// How many blobs the store has.
fn blobs(env: &Env) -> usize {
    fs::read_dir(env.root().join("blobs/sha256")).map_or(0, Iterator::count)
}

#[test]
fn what_is_no_archive_is_refused() {
    let whole = Image::parse(BUSY).docker_archive("app");
    refused("nothing", Vec::new(), "neither manifest.json nor index.json");
    refused("text", b"hello\n".repeat(200), "load stdin");
    refused("a cut archive", whole[..whole.len() / 2].to_vec(), "load stdin");
    let packed = compress(&whole, Compression::Gzip);
    refused("a cut gzip", packed[..packed.len() / 2].to_vec(), "load stdin");
    let packed = compress(&whole, Compression::Zstd);
    refused("a cut zstd", packed[..packed.len() / 2].to_vec(), "load stdin");
    refused("a rootfs", fixture::layer("/etc/passwd 0644 root"), "dhow import");
    let env = Env::new();
    env.run("load -i /missing.tar").fails_with(1, "/missing.tar: No such file or directory");
}

#[test]
fn a_lying_docker_archive_is_refused() {
    let archive = Image::parse("/a 0644 a").docker_archive("app");
    let manifest = |text: &str| {
        rewrite(
            &archive,
            |name, content| if name == "manifest.json" { text.into() } else { content },
        )
    };
    let secret = "../../../../../../etc/passwd";
    for (what, text, says) in [
        ("text for a manifest", "[".to_owned(), "manifest.json"),
        ("an object", "{}".into(), "manifest.json"),
        ("no image", "[]".into(), "the archive holds no image"),
        ("deep JSON", "[".repeat(100_000), "manifest.json"),
        (
            "a config elsewhere",
            json!([{ "Config": secret, "Layers": [] }]).to_string(),
            "etc/passwd",
        ),
        (
            "an absolute config",
            json!([{ "Config": "/etc/passwd", "Layers": [] }]).to_string(),
            "etc/passwd",
        ),
        (
            "a config that is not there",
            json!([{ "Config": "no.json" }]).to_string(),
            "no member \"no.json\"",
        ),
        ("config of a wrong type", json!([{ "Config": 7 }]).to_string(), "manifest.json"),
    ] {
        refused(what, manifest(&text), says);
    }
    for tag in ["../../etc:1", "UPPER:1", "a b", "x:1/../../y", ""] {
        let with = rewrite(&archive, |name, content| match name {
            "manifest.json" => {
                String::from_utf8(content).unwrap().replace("app:latest", tag).into()
            }
            _ => content,
        });
        refused(tag, with, "invalid");
    }
    // A layer other than the configuration says.
    let other = rewrite(&archive, |name, content| match name.ends_with("layer.tar") {
        true => fixture::layer("/a 0644 b"),
        false => content,
    });
    refused("another layer", other, "diffID");
}

#[test]
fn a_lying_oci_archive_is_refused() {
    let archive = Image::parse("/a 0644 a").oci_archive("app", Compression::Gzip);
    let index = |change: &dyn Fn(&mut serde_json::Value)| {
        rewrite(&archive, |name, content| match name {
            "index.json" => {
                let mut value = serde_json::from_slice(&content).unwrap();
                change(&mut value);
                value.to_string().into_bytes()
            }
            _ => content,
        })
    };
    let digest = |text: &str| {
        let text = text.to_owned();
        index(&move |value| value["manifests"][0]["digest"] = json!(text))
    };
    refused("a digest that is a path", digest("sha256:../../../etc/passwd"), "index.json");
    refused("a weak digest", digest("md5:d41d8cd98f00b204e9800998ecf8427e"), "digest");
    refused("an empty digest", digest(""), "digest");
    refused(
        "a blob that is not there",
        digest(&format!("sha256:{}", "0".repeat(64))),
        "has no member",
    );
    refused(
        "another size",
        index(&|v| v["manifests"][0]["size"] = json!(1)),
        "where its descriptor says",
    );
    refused("a negative size", index(&|v| v["manifests"][0]["size"] = json!(-1)), "index.json");
    refused(
        "another kind",
        index(&|v| v["manifests"][0]["mediaType"] = json!("text/html")),
        "text/html",
    );
    refused("no manifests", index(&|v| v["manifests"] = json!([])), "the archive holds no image");
    let swapped = rewrite(&archive, |name, mut content| {
        if name.starts_with("blobs/") && content.starts_with(&[0x1f, 0x8b]) {
            let last = content.len() - 1;
            content[last] ^= 1;
        }
        content
    });
    refused("a blob of other content", swapped, "other content than its name says");
}

#[test]
fn the_archives_own_members_cannot_lead_out() {
    let link = |name: &str, target: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
        tar.into_inner().unwrap()
    };
    refused(
        "a link out",
        link("manifest.json", "../../etc/passwd"),
        "a link that leaves the archive",
    );
    refused("an absolute link", link("manifest.json", "/etc/passwd"), "a link to an absolute path");
    refused("a circle", link("manifest.json", "manifest.json"), "circle");
    refused("a fifo", fixture::layer("/manifest.json 0644 fifo"), "neither a file nor a link");
    refused("a name that leaves", fixture::layer("\"../../x\" 0644 x"), "../../x");
}

// ---- layers that attack -------------------------------------------------------------------------

/// An image with this layer on top of a plain one: refused and nothing left, or contained.
#[track_caller]
fn hostile(what: &str, layers: &str, says: &str) {
    refused(what, Image::parse(layers).docker_archive("evil"), says);
}

#[test]
fn layers_that_reach_out_are_refused() {
    hostile("a name with ..", "\"../../canary\" 0644 x", "../../canary");
    hostile("a name with .. inside", "\"a/../../../canary\" 0644 x", "a/../../../canary");
    hostile("a hard link with ..", "/a => ../../../../etc/passwd", "leaves the layer by \"..\"");
    hostile("a hard link to nothing", "/a => etc/shadow", "\"etc/shadow\", which this layer lacks");
    hostile("a device that is a whiteout", "/a 0644 char 0:0", "which overlays hide");
    hostile(
        "an owner that is nobody's",
        "/a 0644 4294967295:0 x",
        "not a possible user or group id",
    );
    hostile("a whiteout of the parent", "\".wh...\" 0644 x", ".wh.");
    hostile("a whiteout through ..", "\"../.wh.canary\" 0644 x", ".wh.canary");
}

/// Loads what is not refused, and looks that it has stayed inside.
#[track_caller]
fn contained(layers: &str, script: &str, prints: &str) {
    let env = Env::new();
    let canary = env.file("canary", "untouched");
    let layers = layers.replace("CANARY", &canary);
    env.run_with_stdin("load -q", Image::parse(&layers).docker_archive("evil")).exits(0);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched", "{layers}");
    let script = script.replace("CANARY", &canary);
    env.run(&format!("run --rm --network none evil sh -c '{script}'")).prints(prints);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched", "{layers}");
}

#[test]
fn links_lead_inside_the_image_only() {
    // In one layer, and in the next.
    for between in ["\n", "\n---\n"] {
        contained(
            &format!("{BUSY}\n/out -> CANARY{between}/out 0644 inside"),
            "cat /out",
            "inside\n",
        );
        contained(
            &format!("{BUSY}\n/dir -> /tmp{between}/dir/file 0644 inside"),
            "cat /tmp/file /dir/file 2>/dev/null | head -n 1",
            "inside\n",
        );
    }
    contained(&format!("{BUSY}\n\"/abs/name\" 0644 inside"), "cat /abs/name", "inside\n");
    contained(
        &format!("{BUSY}\n/up -> ../../../../../../../..\n/up/tmp/x 0644 inside"),
        "cat /up/tmp/x",
        "inside\n",
    );
}

#[test]
fn a_pipe_for_a_file_of_accounts_hangs_nothing() {
    let text = BUSY.replace("/etc/passwd 0644 root", "/other 0644 root");
    let env = Env::with("evil", &format!("{text}\n/etc/passwd 0644 fifo"));
    let run = env.run("run --rm --network none -u someone evil true");
    assert_eq!(run.code, 125, "{}", run.stderr);
    env.run("run --rm --network none evil echo hello").prints("hello\n");
}

#[test]
fn overlays_own_marks_are_not_taken_from_a_layer() {
    for mark in ["user.overlay.opaque=y", "user.overlay.redirect=/etc", "trusted.overlay.opaque=y"]
    {
        let reserved = format!("reserved attribute \"{}\"", mark.split('=').next().unwrap());
        hostile(mark, &format!("/d/ 0755 xattr {mark}"), &reserved);
    }
}

#[test]
fn configurations_that_lie_start_nothing() {
    let wrong = |config: &str, says: &str| {
        let image =
            Image { config: serde_json::from_str(config).unwrap(), ..Image::parse("/a 0644 a") };
        refused(config, image.docker_archive("evil"), says);
    };
    wrong(r#"{"Cmd": "sh"}"#, "config.Cmd");
    wrong(r#"{"Entrypoint": 7}"#, "config.Entrypoint");
    wrong(r#"{"Env": "A=1"}"#, "config.Env");
    for (config, says) in [
        ("USER 4294967296", "user id 4294967296 is out of range"),
        ("USER -1", "user id -1 is out of range"),
        ("USER 0:99999999999", "group id 99999999999 is out of range"),
        ("USER nobody-here", "nobody-here"),
        ("ENV =x", "malformed variable"),
        ("WORKDIR /proc/self/fd/3", "working directory"),
        ("WORKDIR ../../../proc/self/fd/3", "working directory"),
    ] {
        let env = Env::with("evil", &format!("{BUSY}\n{config}"));
        let run = env.run("run --rm --network none evil true").exits(125).prints("");
        assert!(run.stderr.contains(says), "{config} should be told with {says:?}: {}", run.stderr);
    }
}

#[test]
fn bombs_and_giants_are_cut_short() {
    // 8 EiB by its header, 512 bytes of content.
    let mut header = tar::Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(1 << 62);
    header.set_mode(0o644);
    header.set_cksum();
    let layer = [header.as_bytes().as_slice(), &[0; 512]].concat();
    let image = Image { layers: vec![layer], ..Image::parse("") };
    refused("a file of 4 EiB", image.docker_archive("evil"), "layer");
    let deep = format!("/{}f 0644 x", "d/".repeat(5000));
    let env = Env::new();
    let run = env.run_with_stdin("load -q", Image::parse(&deep).docker_archive("deep"));
    // Either is right; what matters is that it can be removed again.
    if run.code == 0 {
        run.exits(0);
        env.run("rmi deep").shows("Deleted: ");
    } else {
        run.exits(1).tells("Error: ");
    }
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn a_packed_bomb_is_no_more_than_its_file() {
    // A quarter of a gigabyte of zeros, some kilobytes packed.
    let size: u64 = 1 << 28;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let whole = std::io::Cursor::new(header.as_bytes().to_vec());
    let mut whole = whole.chain(std::io::repeat(0).take(size + 1024));
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    std::io::copy(&mut whole, &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 1 << 20, "{}", packed.len());
    // It does not have the diffID that it is said to have: refused, and nothing stays.
    let image = Image { layers: vec![packed], ..Image::parse("") };
    refused("a bomb", image.docker_archive("evil"), "diffID");
    // As an archive that is one file of zeros it is no archive.
    let bomb = compress(&vec![0; 16 << 20], Compression::Gzip);
    refused("zeros", bomb, "neither manifest.json nor index.json");
}

#[test]
fn a_layer_that_asks_for_much_memory_gets_none() {
    let pack = |window: u32| {
        let archive = Image::parse(BUSY).docker_archive("app:1");
        rewrite(&archive, |name, content| {
            if !name.ends_with("layer.tar") {
                return content;
            }
            let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            packed.window_log(window).unwrap();
            std::io::copy(&mut &content[..], &mut packed).unwrap();
            packed.finish().unwrap()
        })
    };
    refused("a window of 128 MiB", pack(27), "unpacking needs 128 MiB at once; at most 32 are");
    // The archive itself may not either.
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    packed.window_log(26).unwrap();
    std::io::copy(&mut &pack(20)[..], &mut packed).unwrap();
    let run = refused("an archive with one", packed.finish().unwrap(), "unpacking needs 64 MiB");
    run.tells("hint: it was packed with zstd's --long");
    let env = Env::new();
    env.run_with_stdin("load -q", pack(25)).exits(0);
    env.run("run --rm --network none app:1 echo here").prints("here\n");
}

#[test]
fn directories_and_links_change_places_across_layers() {
    // A link where a lower layer has a directory, then a file through it in a third.
    contained(
        &format!("{BUSY}\n/d/keep 0644 lower\n---\n/d whiteout\n---\n/d -> /tmp\n---\n/e/f 0644 x"),
        "test -L /d; echo $?",
        "0\n",
    );
    contained(
        &format!("{BUSY}\n/d -> CANARY\n---\n/d/ 0755\n/d/f 0644 inside"),
        "cat /d/f",
        "inside\n",
    );
    contained(
        &format!("{BUSY}\n/d -> ../../../../../..\n---\n/d/tmp/f 0644 inside"),
        "cat /d/tmp/f",
        "inside\n",
    );
}

#[test]
fn a_document_that_could_be_two_things_is_refused() {
    let archive = Image::parse("/a 0644 a").oci_archive("app", Compression::Gzip);
    let digest = |bytes: &[u8]| dhow::oci::Digest::of(bytes);
    // The manifest is an index as well (CVE-2021-41190); its own digest and size are right.
    let mut files = Vec::new();
    let mut both = Vec::new();
    let mut tar = tar::Archive::new(&archive[..]);
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if content.starts_with(b"{\"config\":{\"digest\"") {
            let mut value: serde_json::Value = serde_json::from_slice(&content).unwrap();
            value["manifests"] = json!([]);
            both = value.to_string().into_bytes();
        } else if !name.ends_with('/') {
            files.push((name, content));
        }
    }
    assert!(!both.is_empty(), "the fixture's manifest was found");
    for (name, content) in &mut files {
        if name == "index.json" {
            let mut index: serde_json::Value = serde_json::from_slice(content).unwrap();
            index["manifests"][0]["digest"] = json!(digest(&both));
            index["manifests"][0]["size"] = json!(both.len());
            *content = index.to_string().into_bytes();
        }
    }
    files.push((format!("blobs/sha256/{}", digest(&both).hex()), both));
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, &content[..]).unwrap();
    }
    refused("two things", tar.into_inner().unwrap(), "could be an index and an image");
}
