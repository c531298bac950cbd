//! `login` and `logout`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
};

use super::super::{
    args::registry::{Login, Logout},
    exit, output,
};
use crate::{
    engine::registry::Reach,
    error::{Context as _, Error, Result},
    image::registry::{
        Access, Credentials,
        login::{self, Kept},
    },
    sys::tty::HiddenInput,
};

/// Docker Hub, where none is named.
const DEFAULT: &str = "docker.io";
/// Longest password or token; what comes from a pipe has to end somewhere.
const PASSWORD_MAX: u64 = 64 << 10;

pub fn login(args: &Login) -> Result<ExitCode> {
    let registry = login::registry_name(args.server.as_deref().unwrap_or(DEFAULT))?;
    if args.get_login {
        return get_login(args, &registry);
    }
    if args.password.is_some() && args.password_stdin {
        return Err(Error::invalid("--password and --password-stdin are mutually exclusive"));
    }
    if args.password.is_some() {
        exit::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let access = access(args)?;
    if args.username.is_none()
        && args.password.is_none()
        && !args.password_stdin
        && let Some(known) = login::credentials(&registry, &access)?
    {
        exit::note("Authenticating with existing credentials...");
        match login::verify(&registry, with(&access, known)) {
            Ok(()) => return output::print("Login Succeeded\n").map(|()| ExitCode::SUCCESS),
            Err(err) if !io::stdin().is_terminal() => return Err(err),
            Err(err) => exit::warn(&err),
        }
    }
    let (user, password) = ask(args)?;
    let given = Credentials::Password { user: user.clone(), password: password.clone() };
    login::verify(&registry, with(&access, given))
        .doing_with(|| format!("log in to {registry}"))?;
    match login::store(&registry, &user, &password, &access).doing("keep the credentials")? {
        Kept::Helper(_) => {}
        Kept::File(file) => exit::note(&format!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning.",
            file.display()
        )),
    }
    output::print("Login Succeeded\n")?;
    Ok(ExitCode::SUCCESS)
}

fn with(access: &Access, given: Credentials) -> Access {
    Access { given: Some(given), ..access.clone() }
}

fn access(args: &Login) -> Result<Access> {
    let reach =
        Reach { tls_verify: args.tls_verify, cert_dir: args.cert_dir.clone(), ..Reach::default() };
    let mut access = reach.access()?;
    // It need not be there yet.
    if let Some(file) = &args.authfile {
        access.credentials = vec![file.clone()];
    }
    Ok(access)
}

fn get_login(args: &Login, registry: &str) -> Result<ExitCode> {
    let user = login::user(registry, &access(args)?)?.ok_or_else(|| {
        Error::not_found(format!("not logged into {registry}"))
            .hint(format!("`dhow login {registry}` asks for a name and a password"))
    })?;
    output::print(&format!("{user}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The name and the password, from the flags or from whoever sits there.
fn ask(args: &Login) -> Result<(String, String)> {
    let terminal = io::stdin().is_terminal();
    let no_terminal = || {
        Error::invalid("Cannot perform an interactive login from a non TTY device")
            .hint("give --username and --password-stdin")
    };
    if args.password_stdin {
        let user = args
            .username
            .clone()
            .ok_or_else(|| Error::invalid("Must provide --username with --password-stdin"))?;
        let mut password = String::new();
        let mut input = io::stdin().lock().take(PASSWORD_MAX);
        input.read_to_string(&mut password).doing("read the password")?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        return nonempty(user, password);
    }
    let user = match &args.username {
        Some(user) => user.clone(),
        None if !terminal => return Err(no_terminal()),
        None => prompt("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if !terminal => return Err(no_terminal()),
        None => prompt_hidden("Password: ")?,
    };
    nonempty(user, password)
}

fn nonempty(user: String, password: String) -> Result<(String, String)> {
    if user.is_empty() || password.is_empty() {
        return Err(Error::invalid("username and password must not be empty"));
    }
    if user.contains(':') {
        return Err(Error::invalid("a username has no colon in it"));
    }
    Ok((user, password))
}

/// Asks the terminal for what is not to be seen.
pub fn prompt_hidden(text: &str) -> Result<String> {
    let stdin = io::stdin();
    let hidden = HiddenInput::of(stdin.as_fd()).doing("hide what is typed")?;
    let answer = prompt(text)?;
    drop(hidden);
    exit::note("");
    Ok(answer)
}

fn prompt(text: &str) -> Result<String> {
    // Not stdout: that may be read by a program.
    let mut stderr = io::stderr();
    stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).doing("ask")?;
    let mut line = String::new();
    io::stdin().lock().take(PASSWORD_MAX).read_line(&mut line).doing("read the answer")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

pub fn logout(args: &Logout) -> Result<ExitCode> {
    let reach = Reach { authfile: args.authfile.clone(), ..Reach::default() };
    let access = reach.access()?;
    if args.all {
        if args.server.is_some() {
            return Err(Error::invalid("--all takes no registry"));
        }
        login::erase_all(&access)?;
        output::print("Removed login credentials for all registries\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let registry = login::registry_name(args.server.as_deref().unwrap_or(DEFAULT))?;
    let told = match login::erase(&registry, &access)? {
        true => format!("Removing login credentials for {registry}\n"),
        false => format!("Not logged in to {registry}\n"),
    };
    output::print(&told)?;
    Ok(ExitCode::SUCCESS)
}
