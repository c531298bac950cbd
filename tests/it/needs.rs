//! What a test asks of the machine, and the only way to skip one: by name, with a reason.
//!
//! Where `DHOW_MUST_RUN=all` (CI sets it) a skip is a failure, unless `tests/skips.allow` lists
//! the test or the need. Every skip is appended to the file `$DHOW_SKIPS` names.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Returns from the test, skipped by name, unless the machine has what is asked for:
/// `needs!(subids)`, `needs!(cgroup("memory"))`, `needs!(tool("skopeo"))`.
macro_rules! needs {
    ($need:ident $(($($argument:expr),*))?) => {
        if let Err(reason) = $crate::needs::$need($($($argument),*)?) {
            let here = std::any::type_name_of_val(&|| ());
            $crate::needs::skip(here, stringify!($need $(($($argument),*))?), &reason);
            return;
        }
    };
}
pub(crate) use needs;

/// `Ok`, or why not.
pub(crate) type Need = Result<(), String>;

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn met(yes: bool, otherwise: impl Into<String>) -> Need {
    if yes { Ok(()) } else { Err(otherwise.into()) }
}

/// The test is about root's containers.
pub(crate) fn root() -> Need {
    met(is_root(), "not root")
}

/// The test is about an ordinary user's containers.
pub(crate) fn rootless() -> Need {
    met(!is_root(), "root")
}

/// The user has subordinate ids and the programs that map them (`newuidmap(1)`).
pub(crate) fn subids() -> Need {
    rootless()?;
    met(has_ranges("/etc/subuid") && has_ranges("/etc/subgid"), "no subordinate ids")?;
    tool("newuidmap")?;
    tool("newgidmap")
}

/// The user has no subordinate ids: a single id is all there is to map.
pub(crate) fn no_subids() -> Need {
    rootless()?;
    met(!has_ranges("/etc/subuid") && !has_ranges("/etc/subgid"), "has subordinate ids")
}

/// `subuid(5)`: `name-or-uid:first:count`.
fn has_ranges(file: &str) -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    let names = [user.map_or(String::new(), |u| u.name), nix::unistd::geteuid().to_string()];
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|l| l.split(':').next()).any(|owner| names.iter().any(|n| n == owner))
}

/// A program in `$PATH` or the system's directories.
pub(crate) fn tool(name: &str) -> Need {
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    met(env::split_paths(&path).any(|dir| dir.join(name).is_file()), format!("no {name}"))
}

/// fuse-overlayfs is installed, and this user may use it.
pub(crate) fn fuse() -> Need {
    tool("fuse-overlayfs")?;
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.map(drop).map_err(|err| format!("/dev/fuse: {err}"))
}

/// pasta or slirp4netns is installed, and this user may make the tap link that both need.
pub(crate) fn carrier(program: &str) -> Need {
    tool(program)?;
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    device.map(drop).map_err(|err| format!("/dev/net/tun: {err}"))
}

/// Overlays of id-mapped mounts, Linux 5.19, on the file system where tests are.
pub(crate) fn id_mapped_mounts() -> Need {
    // linux/magic.h: ext4, XFS, btrfs.
    const KNOWN: [i64; 3] = [0xef53, 0x5846_5342, 0x9123_683e];
    let release = nix::sys::utsname::uname().map_err(|err| err.to_string())?;
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    met(version >= (5, 19), format!("Linux {release}"))?;
    let kind = rustix::fs::statfs(crate::env::base()).map_err(|err| err.to_string())?.f_type;
    met(KNOWN.contains(&kind), format!("the file system {kind:#x}"))
}

/// A Debian root file system: `mmdebstrap` fetches it once and it is kept.
pub(crate) fn debian() -> Need {
    tool("mmdebstrap")?;
    tool("tar")?;
    let kept = debian_tar();
    if kept.is_file() {
        return Ok(());
    }
    let new = kept.with_extension(format!("{}.tar", std::process::id()));
    let made = Command::new("timeout")
        .args(["240", "mmdebstrap", "--quiet", "--variant=apt", "--include=passwd"])
        // A mirror that has not been renewed for a while serves as well.
        .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "stable"])
        .arg(&new)
        .output()
        .map_err(|err| err.to_string())?;
    if made.status.success() {
        return fs::rename(&new, &kept).map_err(|err| err.to_string());
    }
    drop(fs::remove_file(&new));
    let said = String::from_utf8_lossy(&made.stderr);
    Err(format!("mmdebstrap: {}", said.lines().last().unwrap_or("it says nothing")))
}

/// Debian with servers and their clients: fetched once, in a minute or two, and kept.
pub(crate) fn servers() -> Need {
    tool("mmdebstrap")?;
    let kept = servers_tar();
    if kept.is_file() {
        return Ok(());
    }
    // Several tests want it, and each is a process.
    let lock = kept.with_extension("lock");
    let lock = fs::File::create(&lock).map_err(|err| err.to_string())?;
    lock.lock().map_err(|err| err.to_string())?;
    if kept.is_file() {
        return Ok(());
    }
    let failed = kept.with_extension("failed");
    let of_now = |path: &Path| {
        let age = fs::metadata(path).and_then(|meta| meta.modified());
        age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 600))
    };
    met(!of_now(&failed), "mmdebstrap has just failed")?;
    let new = kept.with_extension("new.tar");
    let made = Command::new("timeout")
        .args(["400", "mmdebstrap", "--quiet", "--variant=apt"])
        .arg(format!("--include={SERVERS}"))
        // What no server of a test reads; LLVM is for PostgreSQL's long queries.
        .args(
            ["doc/*", "man/*", "locale/*", "info/*"]
                .map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}")),
        )
        .arg("--dpkgopt=path-exclude=/usr/lib/*/libLLVM*")
        .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "stable"])
        .arg(&new)
        .output()
        .map_err(|err| err.to_string())?;
    if made.status.success() {
        return fs::rename(&new, &kept).map_err(|err| err.to_string());
    }
    drop(fs::remove_file(&new));
    drop(fs::write(&failed, ""));
    let said = String::from_utf8_lossy(&made.stderr);
    Err(format!("mmdebstrap: {}", said.lines().last().unwrap_or("it says nothing")))
}

const SERVERS: &str =
    "nginx-light,redis-server,postgresql,curl,bind9-dnsutils,iperf3,wrk,iproute2,passwd";

pub(crate) fn servers_tar() -> PathBuf {
    kept("servers")
}

/// Where [`debian`] keeps it.
pub(crate) fn debian_tar() -> PathBuf {
    kept("debian-apt")
}

/// For each user, since anyone may write there.
fn kept(what: &str) -> PathBuf {
    let of = |uid: u32| PathBuf::from(format!("/var/tmp/dhow-test-{what}-{uid}.tar"));
    // Root's is good for everyone.
    let roots = of(0);
    let is_roots = fs::symlink_metadata(&roots).is_ok_and(|meta| meta.is_file() && meta.uid() == 0);
    if is_roots { roots } else { of(nix::unistd::geteuid().as_raw()) }
}

/// A Rust compiler that the test may read, with the standard library for the machine it runs on.
pub(crate) fn rust() -> Need {
    met(cfg!(target_arch = "x86_64"), "the program is one for x86-64")?;
    let library = sysroot().join("lib/rustlib").join(rust_target()).join("lib");
    fs::read_dir(library).map(drop).map_err(|err| format!("no Rust compiler: {err}"))
}

/// Where the compiler is that this was made with.
pub(crate) fn sysroot() -> PathBuf {
    let cargo = Path::new(env!("CARGO"));
    cargo.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned()
}

pub(crate) fn rust_target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// The package registries, by this machine's own clients. What is fetched is the same for all: it is root who
/// does it, and others if `DHOW_TEST_REGISTRIES` asks them to.
pub(crate) fn registries() -> Need {
    let is_asked = env::var_os("DHOW_TEST_REGISTRIES").is_some();
    met(is_root() || is_asked, "DHOW_TEST_REGISTRIES is not set")?;
    let place = tempfile::tempdir().map_err(|err| err.to_string())?;
    let place = place.path().display();
    said(&format!("pip3 download --quiet --no-deps --dest {place} six"))?;
    said(&format!("npm pack --silent --pack-destination {place} npm@10")).map(drop)
}

/// What a client of this machine's prints, if it ends well and soon.
pub(crate) fn said(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split(' ').collect();
    tool(words[0])?;
    let said = Command::new("timeout").arg("30").args(&words).output();
    let said = said.map_err(|err| err.to_string())?;
    met(said.status.success(), format!("{line}: {}", said.status))?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Whether binfmt_misc can be mounted in a user namespace (Linux 6.7).
pub(crate) fn own_emulators() -> Need {
    root()?;
    tool("unshare").and(tool("setpriv"))?;
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= (6, 7) && fs::exists("/proc/sys/fs/binfmt_misc").unwrap_or(false) {
        true => Ok(()),
        false => Err(format!("Linux {release} has no binfmt_misc for each user namespace")),
    }
}

/// A cgroup v2 controller that containers of this user can be limited with.
pub(crate) fn cgroup(controller: &str) -> Need {
    let usable = |dir: &PathBuf| {
        fs::read_to_string(dir.join("cgroup.controllers"))
            .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
    };
    met(
        delegated().iter().any(usable),
        format!("no {controller} controller of cgroup v2 for this user"),
    )
}

/// A cgroup v2 directory in which this user may make others: freezing and killing need no more.
pub(crate) fn cgroup_dir() -> Need {
    met(!delegated().is_empty(), "no writable cgroup v2 directory for this user")
}

/// A cgroup in which this user can make another one, and enter it.
pub(crate) fn cgroup_beside() -> Result<PathBuf, String> {
    let mount = cgroup_mount().ok_or("no cgroup v2")?;
    if is_root() {
        return Ok(mount);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    let parent = mount.join(own).parent().map(Path::to_owned).unwrap_or(mount);
    // cgroups(7): who enters must be able to write here.
    let procs = parent.join("cgroup.procs");
    match nix::unistd::access(&procs, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Ok(parent),
        Err(errno) => Err(format!("{}: {errno}", procs.display())),
    }
}

/// Directories whose controllers this user may hand to containers.
fn delegated() -> Vec<PathBuf> {
    let Some(mount) = cgroup_mount() else { return Vec::new() };
    if is_root() {
        return vec![mount];
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).map(|path| mount.join(path));
    let uid = nix::unistd::geteuid();
    let session = mount.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"));
    let writable = |dir: &PathBuf| {
        nix::unistd::access(&dir.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_ok()
    };
    // A delegated subtree is handed over with its parent: `cgroup.procs` of both is writable.
    let parent = own.as_ref().and_then(|dir| dir.parent()).map(PathBuf::from);
    own.into_iter().chain(parent).chain([session]).filter(writable).collect()
}

/// Where cgroup v2 is mounted: on hybrid hosts not at the top.
pub(crate) fn cgroup_mount() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|l| l.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The address from which this machine would speak to others.
pub(crate) fn own_address() -> Result<std::net::IpAddr, String> {
    let find = || -> std::io::Result<std::net::IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        // Sends nothing: a route is looked up.
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    find().map_err(|err| err.to_string())
}

/// A host's network for containers to speak with: root makes one, others use the machine's.
pub(crate) fn world() -> Need {
    if is_root() {
        tool("unshare").and(tool("nsenter")).and(tool("ip"))
    } else {
        own_address().map(drop)
    }
}

/// Records the skip. `test` is the path of a closure in the test.
pub(crate) fn skip(test: &str, need: &str, reason: &str) {
    let test = test.trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_crate, path)| path);
    let need: String = need.split_whitespace().collect();
    println!("SKIP {test}: {need}: {reason}");
    if let Ok(file) = env::var("DHOW_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(file).unwrap();
        file.write_all(format!("{test}: {need}: {reason}\n").as_bytes()).unwrap();
    }
    if env::var("DHOW_MUST_RUN").is_ok_and(|v| v == "all") {
        let allowed = allowed(include_str!("../skips.allow"), test, &need);
        assert!(allowed, "{test} may not be skipped: {need}: {reason} (see tests/skips.allow)");
    }
}

/// Whether a line of the list begins with the test's name or the need.
pub(crate) fn allowed(list: &str, test: &str, need: &str) -> bool {
    let listed = list.lines().filter_map(|l| l.split_whitespace().next());
    listed.into_iter().any(|entry| entry == test || entry == need)
}

/// A device of the host's.
pub(crate) fn device(path: &str) -> Need {
    met(fs::exists(path).unwrap_or(false), format!("no device {path}"))
}

/// A file system with project quotas, mounted at `dir`, which it makes.
pub(crate) fn quotas(dir: &Path) -> Need {
    root()?;
    tool("mkfs.ext4")?;
    fs::create_dir(dir).unwrap();
    let image = dir.with_extension("img");
    fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().map_err(|err| err.to_string())?;
        let said = String::from_utf8_lossy(&done.stderr);
        met(done.status.success(), said.lines().next().unwrap_or_default())
    };
    let (image, dir) = (image.to_str().unwrap(), dir.to_str().unwrap());
    run("mkfs.ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota", image])?;
    run("mount", &["-t", "ext4", "-o", "loop,prjquota", image, dir])
}
