//! Authorization: what to say to a registry that answers 401 (distribution's "Token
//! Authentication Specification" and its OAuth2 one).

use std::sync::PoisonError;

use ureq::{
    Body,
    http::{Method, Response, header},
};

use super::{
    Client,
    challenge::{self, Challenge},
    credentials::Credentials,
    read_all,
    transport::{Fault, clip, is_success, refusal},
};
use crate::error::{Error, Kind, Result};

impl Client {
    /// Finds out what to say to a 401. `None`: nothing better than what was said.
    ///
    /// Threads that are refused together wait here for the one that asks.
    pub(super) fn authorize(
        &self,
        response: &Response<Body>,
        said: Option<&str>,
    ) -> Result<Option<String>, Fault> {
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if authorization.as_deref() != said {
            return Ok(authorization.clone());
        }
        let challenges = challenges(response);
        let credentials = self.transport.access().credentials_for(&self.domain, &self.path)?;
        let scheme = |name: &str| challenges.iter().find(|challenge| challenge.scheme == name);
        let fresh = match (scheme("bearer"), scheme("basic"), credentials) {
            (_, _, Some(Credentials::Bearer(token))) => Some(format!("Bearer {token}")),
            (Some(bearer), _, credentials) => Some(self.fetch_token(bearer, credentials)?),
            (None, Some(_), Some(Credentials::Password { user, password })) => {
                Some(Credentials::basic(&user, &password))
            }
            _ => None,
        };
        if fresh.as_deref() == said {
            return Ok(None);
        }
        authorization.clone_from(&fresh);
        Ok(fresh)
    }

    /// What the token shall allow: as the registry asks; for a push all that will be needed, so
    /// that one token serves it.
    fn scopes(&self, asked: Option<&str>) -> Vec<String> {
        if self.mounts.is_none() {
            // Who logs in wants no repository in particular.
            let own = (!self.path.is_empty()).then(|| format!("repository:{}:pull", self.path));
            return asked.map(str::to_owned).or(own).into_iter().collect();
        }
        let mut scopes = vec![format!("repository:{}:pull,push", self.path)];
        scopes.extend(self.mounts.iter().flatten().map(|from| format!("repository:{from}:pull")));
        let same = |asked: &&str| asked.starts_with(&format!("repository:{}:", self.path));
        scopes.extend(asked.filter(|asked| !same(asked)).map(str::to_owned));
        scopes
    }

    /// distribution's "Token Authentication Specification" and, for a refresh token, its OAuth2 one.
    fn fetch_token(
        &self,
        challenge: &Challenge,
        credentials: Option<Credentials>,
    ) -> Result<String, Fault> {
        let what = format!("a token for {}/{}", self.domain, self.path);
        let realm = challenge.parameter("realm").unwrap_or_default();
        if self.origin()?.starts_with("https://") && !realm.starts_with("https://") {
            return Err(Error::new(
                Kind::Unauthorized,
                format!("{} names a token service without TLS: {:?}", self.domain, clip(realm)),
            )
            .hint("dhow sends nothing there: the registry is set up wrongly, or somebody is in between")
            .into());
        }
        let scopes = self.scopes(challenge.parameter("scope"));
        let service = challenge.parameter("service").unwrap_or_default();
        let mut query = format!("service={}", encode(service));
        for scope in &scopes {
            query.push_str(&format!("&scope={}", encode(scope)));
        }
        let response = match credentials {
            Some(Credentials::Identity(token)) => {
                let grant = "grant_type=refresh_token&client_id=dhow";
                let form = format!("{grant}&{query}&refresh_token={}", encode(&token));
                self.transport.post_form(realm, &form)?
            }
            other => {
                let basic = other.and_then(|credentials| match credentials {
                    Credentials::Password { user, password } => {
                        Some(Credentials::basic(&user, &password))
                    }
                    Credentials::Identity(_) | Credentials::Bearer(_) => None,
                });
                let joint = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{joint}{query}");
                self.transport.fetch(&Method::GET, &url, &[], basic.as_deref())?.0
            }
        };
        if !is_success(&response) {
            return Err(refusal(&what, response));
        }
        read_token(&what, &self.domain, response).map(|token| format!("Bearer {token}"))
    }
}

fn challenges(response: &Response<Body>) -> Vec<Challenge> {
    let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
    headers.iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

fn read_token(what: &str, host: &str, response: Response<Body>) -> Result<String, Fault> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    const TOKEN_MAX: u64 = 1 << 20;
    let text = read_all(host, response, TOKEN_MAX)?;
    let answer = serde_json::from_slice::<Answer>(&text).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    let sane = |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    token
        .filter(sane)
        .ok_or_else(|| Error::invalid(format!("{what}: the answer holds none")).into())
}

/// RFC 3986, "Percent-Encoding".
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock};

    use super::*;
    use crate::image::registry::{Access, transport::Transport};

    #[test]
    fn nothing_goes_to_a_token_service_without_tls() {
        let client = Client {
            domain: "r.io".into(),
            path: "app".into(),
            host: "r.io".into(),
            origin: OnceLock::from("https://r.io".to_owned()),
            transport: Transport::new(Access::none()),
            authorization: Mutex::default(),
            mounts: None,
            referring: Mutex::default(),
        };
        for realm in ["http://r.io/token", "http://127.0.0.1:1/", "//r.io/token", ""] {
            let header = format!(r#"Bearer realm="{realm}",service="x""#);
            let challenge = challenge::parse(&header).remove(0);
            let credentials =
                Credentials::Password { user: "user".into(), password: "pass".into() };
            let fault = client.fetch_token(&challenge, Some(credentials));
            let Err(Fault::Final(err)) = fault else { panic!("{realm}: {fault:?}") };
            assert!(err.to_string().contains("without TLS"), "{err}");
        }
    }

    #[test]
    fn query_values_cannot_add_parameters() {
        assert_eq!(
            encode("repository:a/b:pull&x=1 é"),
            "repository%3Aa%2Fb%3Apull%26x%3D1%20%C3%A9"
        );
    }
}
