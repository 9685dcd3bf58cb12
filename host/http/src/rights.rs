//! Who sends a request, and what that one may.

use super::error::ApiError;
use super::login;
use super::peer::Peer;
use super::routes::Operation;
use crate::App;
use crate::tokens::{Refusal, Shown, TooManyWrong};
use axum::http::{HeaderMap, Method, StatusCode, header};
use dropsonde_engine::audit;
use dropsonde_model::Right;
use dropsonde_model::nearest::unknown;
use std::collections::HashMap;
use std::time::Duration;

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    token: Shown,
    /// A browser that has logged in.
    is_session: bool,
}

/// What each operation needs, and the query parameters it takes.
pub(super) struct Rights(HashMap<String, Vec<Known>>);

struct Known {
    method: Method,
    /// None: everybody may.
    needs: Option<Right>,
    takes: &'static [&'static str],
}

impl Rights {
    pub(super) fn of(operations: &[Operation]) -> Self {
        let mut rights: HashMap<_, Vec<_>> = HashMap::new();
        for Operation { method, path, needs, takes, .. } in operations {
            let known = Known { method: method.clone(), needs: *needs, takes };
            rights.entry(path.clone()).or_default().push(known);
        }
        Self(rights)
    }

    /// None also for what there is not.
    pub(super) fn needed(&self, route: &str, method: &Method) -> Option<Right> {
        self.of_operation(route, method)?.needs
    }

    /// Refuses a query parameter the operation does not take: it would do nothing, and nobody would notice. Probes and
    /// scrapers send parameters of their own to what has none.
    pub(super) fn check_parameters(&self, route: &str, method: &Method, query: Option<&str>) -> Result<(), ApiError> {
        let (Some(query), Some(Known { takes, .. })) = (query, self.of_operation(route, method)) else { return Ok(()) };
        if takes.is_empty() && !["/v1/", "/telemetry/"].iter().any(|api| route.starts_with(api)) {
            return Ok(());
        }
        let mut given = form_urlencoded::parse(query.as_bytes());
        match given.find(|(name, _)| !takes.contains(&&**name)) {
            Some((name, _)) => Err(ApiError::new(StatusCode::BAD_REQUEST, unknown("parameter", &name, takes))),
            None => Ok(()),
        }
    }

    /// Whether it is there to change something.
    pub(super) fn is_change(&self, route: &str, method: &Method) -> bool {
        !method.is_safe() && self.of_operation(route, method).is_some()
    }

    fn of_operation(&self, route: &str, method: &Method) -> Option<&Known> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(route)?.iter().find(|known| known.method == method)
    }
}

impl Caller {
    pub(super) fn of(app: &App, peer: Peer, headers: &HeaderMap) -> Self {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let token = shown.map_or(Shown::Nothing, |token| app.tokens.recognize(token));
        let is_session =
            token == Shown::Nothing && login::sessions(headers).any(|secret| app.tokens.is_session(secret));
        Self { peer, token, is_session }
    }

    /// Whether it may do what needs a right.
    pub(crate) fn check(&self, app: &App, needed: Right) -> Result<(), ApiError> {
        if needed == Right::Read && self.is_session {
            return Ok(());
        }
        let needs = needed.as_str();
        app.tokens.check(needed, self.token, self.peer.certificate.is_some()).map_err(|refusal| match refusal {
            Refusal::Never => {
                let why = format!(
                    "there is no {needs} token to allow this: the host keeps nothing (--memory-only), and \
                     auth.{needs}_token_file names none"
                );
                ApiError::new(StatusCode::FORBIDDEN, why)
            }
            Refusal::NoCertificate => ApiError::unauthorized("this needs a certificate: connect again, and show one"),
            Refusal::Missing => ApiError::unauthorized(format!(
                "this needs the {needs} token: Authorization: Bearer TOKEN{}",
                if needed == Right::Read { ", or a login at /" } else { "" }
            )),
            Refusal::Wrong => {
                if let Err(TooManyWrong(wait)) = app.tokens.count_wrong(self.peer.id()) {
                    return too_many_wrong("tokens", wait);
                }
                ApiError::unauthorized(format!("this is no token of this host; it needs the {needs} token"))
            }
            Refusal::TooLittle(shown) => {
                let why = format!("the {} token does not allow this: it needs the {needs} token", shown.as_str());
                ApiError::new(StatusCode::FORBIDDEN, why)
            }
        })
    }

    /// For the audit log.
    pub(crate) fn name(&self) -> audit::Caller {
        let token = match self.token {
            Shown::Token(right) => Some(right.as_str()),
            Shown::Nothing | Shown::Unknown => None,
        };
        let certificate = self.peer.certificate.as_deref().map(str::to_owned);
        audit::Caller { token, certificate, peer: self.peer.to_string() }
    }
}

/// Refuses a client that showed too many wrong tokens, or logged in with too many.
pub(super) fn too_many_wrong(what: &str, wait: Duration) -> ApiError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let why = format!("too many wrong {what} of this client; try again later");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, why).retry_after(seconds)
}

/// The scheme's name is of either case (RFC 9110).
pub(super) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
