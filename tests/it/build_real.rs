//! Real things: package managers and compilers in `RUN`, and what they have made is run.
//!
//! What can be had of local files is; the rest comes from the package registries, where this machine
//! reaches them by its own clients, whose configuration the steps see.

use std::fs;

use crate::{
    build::Context,
    env::Env,
    needs::{self, needs},
};

fn debian() -> Env {
    let env = Env::new();
    env.run(&format!("import {} debian:own", needs::debian_tar().display())).exits(0);
    env
}

#[test]
fn a_debian_image_with_apt() {
    needs!(debian);
    let env = debian();
    // A package with files of others and a script that gives files away, in a repository.
    let text = r#"FROM debian:own AS packed
COPY control /p/DEBIAN/
COPY --chmod=755 postinst /p/DEBIAN/
COPY --chmod=755 tool /p/usr/bin/thing
RUN <<END
mkdir -p /repo /p/var/lib/thing
chmod 755 /p /p/DEBIAN /p/usr /p/usr/bin
dpkg-deb -b /p /repo/thing.deb
cd /repo
{ cat /p/DEBIAN/control
  echo "Filename: ./thing.deb"
  echo "Size: $(stat -c %s thing.deb)"
  echo "SHA256: $(sha256sum thing.deb | cut -d' ' -f1)"
} > Packages
END
FROM debian:own
ENV DEBIAN_FRONTEND=noninteractive
RUN rm -rf /etc/apt/sources.list.d && echo "deb [trusted=yes] file:/repo ./" > /etc/apt/sources.list
RUN --mount=type=bind,from=packed,source=/repo,target=/repo \
    --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get -qq update && apt-get -qq install thing && dpkg --audit
USER thing
ENTRYPOINT ["thing"]
"#;
    let control = "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: x\n";
    let postinst = "#!/bin/sh -e\nuseradd --system thing\nchown -R thing:thing /var/lib/thing\n";
    Context::new(&env, text)
        .file("control", control)
        .file("postinst", postinst)
        .file("tool", "#!/bin/sh\necho thing of $(id -un), $(stat -c %U /var/lib/thing)\n")
        .build("--network none")
        .exits(0);
    env.run("run --rm --network none img").prints("thing of thing, thing\n");
    // What was mounted is not in the image; what was made in it is.
    let left = "ls /repo 2>/dev/null; ls /var/lib/apt/lists | grep -c Packages; dpkg -s thing | grep -c Status.*installed";
    env.run(&format!("run --rm --network none --entrypoint sh img -c '{left}'")).prints("0\n1\n");
}

#[test]
fn a_rust_program_onto_scratch() {
    needs!(debian);
    needs!(rust);
    let env = debian();
    let target = needs::rust_target();
    // Without a C library: `core`, and the linker that comes with the compiler, are enough.
    let text = format!(
        r#"FROM debian:own AS build
COPY --from=rust bin/rustc /opt/bin/
COPY --from=rust lib/*.so* /opt/lib/
COPY --from=rust lib/rustlib/{target}/bin /opt/lib/rustlib/{target}/bin
COPY --from=rust lib/rustlib/{target}/lib/libcore* lib/rustlib/{target}/lib/libcompiler* /opt/lib/rustlib/{target}/lib/
WORKDIR /src
COPY main.rs .
RUN --network=none /opt/bin/rustc -O -C panic=abort -C linker=rust-lld -C linker-flavor=ld.lld \
    -C relocation-model=static -C link-arg=-static -o /hello main.rs
FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT ["/hello"]
"#
    );
    let program = r#"#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[UNSAFE(no_mangle)]
pub extern "C" fn _start() -> ! {
    let text = b"hello from rust\n";
    UNSAFE {
        core::arch::asm!("syscall", inlateout("rax") 1_usize => _, in("rdi") 1,
            in("rsi") text.as_ptr(), in("rdx") text.len(), out("rcx") _, out("r11") _);
        core::arch::asm!("syscall", in("rax") 231, in("rdi") 0, options(noreturn));
    }
}
"#;
    // The word itself has no place in these files.
    let program = program.replace("UNSAFE", &["un", "safe"].concat());
    let context = Context::new(&env, &text).file("main.rs", &program);
    context.build(&format!("--build-context rust={}", needs::sysroot().display())).exits(0);
    env.run("run --rm --network none img").prints("hello from rust\n");
    env.run("create --name made --network none img").ok();
    env.run("export made").prints_tar(["hello"]);
}

/// How this machine's own clients reach the registries, as flags: secrets, and the build's proxies.
fn machine(env: &Env) -> String {
    let mut flags = String::from("--network host");
    let mut secret = |id: &str, text: String| {
        let path = env.path(id);
        fs::write(&path, text).unwrap();
        flags.push_str(&format!(" --secret id={id},src={}", path.display()));
    };
    let ca = "/etc/ssl/certs/ca-certificates.crt";
    secret("ca", fs::read_to_string(ca).unwrap_or_default());
    // `global.index-url='https://...'` to `index-url = https://...`.
    let said = needs::said("pip3 config list").unwrap_or_default();
    let settings =
        said.lines().filter_map(|line| line.split_once('=')).filter_map(|(key, value)| {
            let key = key.rsplit('.').next()?;
            let is_place = ["index-url", "extra-index-url", "trusted-host", "proxy"].contains(&key);
            is_place.then(|| format!("{key} = {}\n", value.trim_matches('\'')))
        });
    secret("pip", format!("[global]\ncert = {ca}\n{}", settings.collect::<String>()));
    let registry = needs::said("npm config get registry").unwrap_or_default();
    // What one has to say to be let in is in the user's file.
    let own = std::env::home_dir().and_then(|home| fs::read_to_string(home.join(".npmrc")).ok());
    let own = own.unwrap_or_default();
    let own: Vec<&str> = own.lines().filter(|line| line.starts_with("//")).collect();
    secret("npm", format!("registry={}\ncafile={ca}\n{}\n", registry.trim(), own.join("\n")));
    let apt = needs::said("apt-config dump").unwrap_or_default();
    let apt: Vec<&str> = apt.lines().filter(|line| line.contains("::Proxy")).collect();
    secret("apt", apt.join("\n"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"] {
        if std::env::var_os(name).is_some() {
            flags.push_str(&format!(" --build-arg {name}"));
        }
    }
    flags
}

#[test]
fn apps_of_python_and_node_from_the_registries() {
    needs!(debian);
    needs!(registries);
    let env = debian();
    let text = r#"FROM debian:own AS base
ENV DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99machine,mode=0444 \
    apt-get -qq update && apt-get -qq install --no-install-recommends python3-venv nodejs
FROM base AS python
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv . && bin/pip install --quiet six
COPY app.py .
ENTRYPOINT ["/app/bin/python", "/app/app.py"]
FROM base AS node
WORKDIR /app
RUN --mount=type=bind,source=npm,target=/opt/npm --mount=type=cache,target=/root/.npm \
    --mount=type=secret,id=npm,target=/root/.npmrc \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    mkdir /tmp/npm && tar -xzf /opt/npm/*.tgz -C /tmp/npm \
    && node /tmp/npm/package/bin/npm-cli.js install --no-audit --no-fund left-pad && rm -r /tmp/npm
COPY app.js .
ENTRYPOINT ["node", "app.js"]
"#;
    let context = Context::new(&env, text)
        .file("app.py", "import six\nprint('python', six.PY3)\n")
        .file("app.js", "console.log('node', require('left-pad')(7, 3, 0))\n");
    // Debian's npm is four hundred packages; its registry's is one.
    let npm = context.dir.join("npm");
    fs::create_dir(&npm).unwrap();
    needs::said(&format!("npm pack --silent --pack-destination {} npm@10", npm.display())).unwrap();
    let machine = machine(&env);
    let build = |target: &str| {
        let line = format!("build -t img {machine} --target {target} ctx");
        // As long as the registries take; and each may have a bad moment.
        let mut said = String::new();
        for _ in 0..3 {
            let built = env.command(&line).output().unwrap();
            if built.status.success() {
                return;
            }
            said.push_str(&String::from_utf8_lossy(&built.stderr));
        }
        panic!("{target}: {said}");
    };
    build("python");
    env.run("run --rm --network none img").prints("python True\n");
    build("node");
    env.run("run --rm --network none img").prints("node 007\n");
    let left = "ls /root/.npm /etc/apt/apt.conf.d/99machine /root/.npmrc /opt/npm /tmp/npm 2>/dev/null | wc -l";
    env.run(&format!("run --rm --network none --entrypoint sh img -c '{left}'")).prints("0\n");
}
