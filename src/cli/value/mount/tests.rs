use std::path::Path;

use super::{tmpfs, volume};
use crate::{
    error::Result,
    state::record::{ImageMount, MountKind, MountRecord, VolumeMount},
};

/// The only one.
fn mount(text: &str, cwd: &Path) -> Result<MountRecord> {
    super::mount(text, cwd).map(|mut all| {
        assert_eq!(all.len(), 1);
        all.remove(0)
    })
}

fn bind(source: &str, create: bool, target: &str, ro: bool, options: &[&str]) -> MountRecord {
    MountRecord {
        kind: MountKind::Bind { source: source.into(), create },
        target: target.into(),
        read_only: ro,
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

fn said(result: Result<MountRecord>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn volumes_are_binds_of_host_paths() {
    let volume = |text| volume(text, Path::new("/home/a")).ok();
    assert_eq!(volume("/a:/b"), Some(bind("/a", true, "/b", false, &[])));
    assert_eq!(volume("./x:/y:ro"), Some(bind("/home/a/x", true, "/y", true, &[])));
    assert_eq!(volume("../x//y:/y/../z/"), Some(bind("/home/x/y", true, "/z", false, &[])));
    assert_eq!(volume(".:/y:rw,cached"), Some(bind("/home/a", true, "/y", false, &[])));
    assert_eq!(
        volume("/a:/b:Z,ro,rshared,noexec"),
        Some(bind("/a", true, "/b", true, &["Z", "rshared", "noexec"]))
    );
}

#[test]
fn what_is_no_path_is_a_volume() {
    let named = |name: &str, no_copy| {
        let volume = VolumeMount { name: name.into(), no_copy, ..VolumeMount::default() };
        MountKind::Volume(volume)
    };
    let volume = |text| volume(text, Path::new("/")).expect("valid");
    assert_eq!(volume("vol:/x").kind, named("vol", false));
    assert_eq!(volume("/x").kind, named("", false));
    let all = volume("vol:/x:ro,nocopy,noexec");
    assert_eq!((all.kind, all.read_only), (named("vol", true), true));
    assert_eq!(all.options, ["noexec"]);
    let all = volume("vol:/x:readonly,volume-nocopy");
    assert_eq!((all.kind, all.read_only, all.options.len()), (named("vol", true), true, 0));
    let text =
        "src=v,dst=/x,ro,volume-nocopy,volume-label=a=b,volume-opt=type=tmpfs,volume-subpath=a/b";
    let MountKind::Volume(all) = mount(text, Path::new("/")).expect("valid").kind else {
        panic!("the default type is volume")
    };
    assert_eq!((all.name.as_str(), all.subpath.as_str(), all.no_copy), ("v", "a/b", true));
    assert_eq!((&*all.labels["a"], &*all.options["type"]), ("b", "tmpfs"));
    let rooted = mount("src=v,dst=/x,volume-subpath=/a/b", Path::new("/")).expect("valid").kind;
    assert!(matches!(rooted, MountKind::Volume(volume) if volume.subpath == "a/b"));
}

#[test]
fn volumes_of_others_are_as_they_were_or_read_only() {
    let volumes_from = |text: &str| super::volumes_from(text).ok();
    assert_eq!(volumes_from("web"), Some(("web".into(), false)));
    assert_eq!(volumes_from("web:ro,z"), Some(("web".into(), true)));
    assert_eq!(volumes_from("web:"), Some(("web".into(), false)));
    for bad in ["", ":ro", "web:foo", "web:nocopy", "web:ro,rw", "web:z,Z", "web:ro,"] {
        assert_eq!(volumes_from(bad), None, "{bad}");
    }
}

#[test]
fn bad_volumes_are_explained() {
    for (text, expected) in [
        ("", "invalid empty volume spec"),
        ("/a:/b:", "invalid spec: /a:/b:: empty section between colons"),
        (":/b", "invalid spec: :/b: empty section between colons"),
        ("/a:/b:c:d", "invalid volume specification: '/a:/b:c:d'"),
        (
            "/a:b",
            "invalid volume specification: '/a:b': invalid mount path: 'b' mount path must be absolute",
        ),
        (
            "/a:/x/..",
            "invalid volume specification: '/a:/x/..': invalid specification: destination can't be '/'",
        ),
        ("C:\\a:/b", "invalid volume specification: 'C:\\a:/b'"),
        ("c:/a:/b", "invalid volume specification: 'c:/a:/b'"),
        ("/a:/b:foo", "invalid volume specification: '/a:/b:foo': invalid mode: foo"),
        ("/a:/b:ro,rw", "invalid volume specification: '/a:/b:ro,rw': invalid mode: ro,rw"),
        ("/a:/b:ro,,", "invalid volume specification: '/a:/b:ro,,': invalid mode: ro,,"),
        (
            "/a:/b:exec,noexec",
            "invalid volume specification: '/a:/b:exec,noexec': invalid mode: exec,noexec",
        ),
        (
            "b/d:/x",
            "create b/d: \"b/d\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed",
        ),
        ("/a:/b:nocopy", "invalid volume specification: '/a:/b:nocopy': invalid mode: nocopy"),
        ("v:/b:rshared", "invalid volume specification: 'v:/b:rshared': invalid mode: rshared"),
        (
            "/a:/b:ro,readonly",
            "invalid volume specification: '/a:/b:ro,readonly': invalid mode: ro,readonly",
        ),
    ] {
        assert_eq!(said(volume(text, Path::new("/"))), expected);
    }
}

#[test]
fn mounts_are_comma_separated() {
    let mount = |text| mount(text, Path::new("/home/a"));
    assert_eq!(mount("type=bind,src=/a,dst=/b").ok(), Some(bind("/a", false, "/b", false, &[])));
    assert_eq!(
        mount("\"TYPE=bind\",\"source=./a,\"\"b\",destination=/b,ro,bind-propagation=rslave").ok(),
        Some(bind("/home/a/a,\"b", false, "/b", true, &["rslave"]))
    );
    assert_eq!(
        mount("type=bind,src=/a,dst=/b,readonly=false,bind-nonrecursive").ok(),
        Some(bind("/a", false, "/b", false, &["bind"]))
    );
    assert_eq!(
        mount("type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate").ok(),
        Some(bind("/a", false, "/b", true, &["rro", "rprivate"]))
    );
    let tmpfs = mount("type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1770").expect("valid");
    assert_eq!(
        (tmpfs.kind, tmpfs.options.join(",")),
        (MountKind::Tmpfs, "size=1048576,mode=1770".into())
    );
}

#[test]
fn bad_mounts_are_explained() {
    for (text, expected) in [
        ("", "the mount is empty"),
        ("type=bind", "target is required"),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("type=bind,src=/a,dst=/b,", "invalid field '' must be a key=value pair"),
        ("type=,dst=/b", "type is required"),
        ("type=bind,src=/a,dst=/b,ro=x", "invalid value for ro: x"),
        ("type=bind,src=/a,dst=/b,foo=1", "unexpected key 'foo' in 'foo=1'"),
        ("type=bind,dst=/b,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
        ("type=tmpfs,dst=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        ("type=tmpfs,dst=/x,tmpfs-size=x", "invalid value for tmpfs-size: x"),
        (
            "type=tmpfs,dst=/x,src=/a",
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        (
            "type=bind,dst=/x",
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            "type=bind,src=a,dst=/x",
            "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
        ),
        (
            "type=bind,src=/a,dst=b",
            "invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
        ),
        ("type=nosuch,target=/x", "invalid mount config for type \"nosuch\": mount type unknown"),
        (
            "type=image,target=/x",
            "invalid mount config for type \"image\": field Source must not be empty",
        ),
        (
            "type=image,src=a,dst=/x,subpath=../b",
            "invalid mount config for type \"image\": subpath must be a relative path within the image",
        ),
        ("type=tmpfs,dst=/x,relabel=shared", "cannot mix option 'relabel' with mount type 'tmpfs'"),
        ("type=devpts,dst=/x,uid=a", "invalid value for uid: a"),
        ("type=bind,src=/a,dst=/x,idmap=uids=0-1", "invalid idmap \"uids=0-1\""),
        (
            "type=glob,src=/nosuch/*,dst=/x",
            "invalid mount config for type \"glob\": no file paths matching glob \"/nosuch/*\"",
        ),
        (
            "type=volume,dst=/x,volume-subpath=a",
            "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
        ),
        (
            "type=volume,dst=/x,ro",
            "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            "type=volume,src=v,dst=/x,volume-subpath=../a",
            "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
        ),
        ("type=volume,src=v,dst=/x,volume-opt=a", "invalid value for volume-opt: a"),
        (
            "type=bind,src=/a,dst=/x,volume-nocopy",
            "cannot mix 'volume-*' options with mount type 'bind'",
        ),
        ("type=bind,src=/a,dst=/b,bind-propagation=x", "invalid value for bind-propagation: x"),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=readonly",
            "invalid mount config for type \"bind\": option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction",
        ),
        (
            "\"type=bind",
            "parse error on line 1, column 11: extraneous or missing \" in quoted-field",
        ),
        (
            "type=bind,src=/a,dst=/b,\"x\"y",
            "parse error on line 1, column 27: extraneous or missing \" in quoted-field",
        ),
        ("type=bi\"nd", "parse error on line 1, column 8: bare \" in non-quoted field"),
    ] {
        assert_eq!(said(mount(text, Path::new("/"))), expected, "{text}");
    }
}

#[test]
fn tmpfs_options_are_the_kernels() {
    let record = tmpfs("/run:ro,noexec,size=64m,mode=1777,uid=5").expect("valid");
    assert_eq!(record.target, "/run");
    assert!(record.read_only);
    assert_eq!(record.options, ["noexec", "size=64m", "mode=1777", "uid=5"]);
    assert!(tmpfs("/x:size=50%").is_ok() && tmpfs("/x").is_ok());
    assert!(tmpfs("/x:sync,dirsync,strictatime,mpol=local").is_ok());
    for bad in
        ["", "x", "/", "/x:foo", "/x:size=", "/x:size=1q", "/x:mode=8", "/x:uid=-1", "/x:ro,,"]
    {
        assert!(tmpfs(bad).is_err(), "{bad}");
    }
}

#[test]
fn podmans_types_and_keys() {
    let mount = |text| mount(text, Path::new("/")).expect("valid");
    let image = mount("type=image,src=busy,dst=/x,subpath=a,rw=true");
    let wanted = ImageMount { name: "busy".into(), subpath: "a".into(), ..ImageMount::default() };
    assert_eq!((image.kind, image.read_only), (MountKind::Image(wanted), false));
    assert!(mount("type=image,src=busy,dst=/x").read_only);
    let ramfs = mount("type=ramfs,dst=/x,tmpfs-mode=700,tmpfs-size=1m");
    assert_eq!(
        (ramfs.kind, ramfs.options.join(",")),
        (MountKind::Ramfs, "mode=700,size=1048576".into())
    );
    assert_eq!(mount("type=devpts,dst=/x,mode=0620,gid=5").options, ["mode=620", "gid=5"]);
    assert_eq!(mount("type=tmpfs,dst=/x,tmpcopyup,U=true").options, ["tmpcopyup", "U"]);
    let bind = mount("type=bind,src=/a,dst=/b,chown,relabel=private,noexec,ro");
    assert_eq!(bind.options, ["U", "Z", "noexec"]);
    let bind = mount("type=bind,src=/a,dst=/b,ro,bind-recursive=writable");
    assert_eq!((bind.read_only, bind.options), (true, vec!["ro".to_owned()]));
    let globbed = super::mount("type=glob,src=/proc/self/st*us,dst=/x", Path::new("/"));
    let [status] = &globbed.expect("valid")[..] else { panic!("one match") };
    assert_eq!(status.target, "/x/status");
}

#[test]
fn overlays_have_their_own_words() {
    let volume = |text: &str| volume(text, Path::new("/"));
    let over = volume("/a:/b:O,upperdir=/u,workdir=/w,noexec").expect("valid");
    assert_eq!(over.options, ["O", "upperdir=/u", "workdir=/w", "noexec"]);
    for bad in ["O,upperdir=/u", "upperdir=/u,workdir=/w", "O,upperdir=u,workdir=/w", "O,U", "O,O"]
    {
        assert!(volume(&format!("/a:/b:{bad}")).is_err(), "{bad}");
    }
}
