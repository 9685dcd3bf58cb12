//! The caller of a request, and its rights.

use super::error::ApiError;
use super::login;
use super::peer::Peer;
use super::routes::Operation;
use crate::App;
use crate::tokens::{AccessRefusal, ShownToken, TooManyWrong};
use axum::http::{HeaderMap, Method, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use dropsonde_engine::audit;
use dropsonde_model::Right;
use dropsonde_model::nearest::unknown;
use std::collections::HashMap;
use std::time::Duration;

/// The sender of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestCaller {
    pub(crate) peer: Peer,
    token: ShownToken,
    /// Whether the sender is a browser that has logged in.
    is_session: bool,
}

/// The right that each operation needs, and the query parameters that it takes.
pub(super) struct AccessRules(HashMap<String, Vec<OperationRule>>);

struct OperationRule {
    method: Method,
    /// The right that is needed; none if everybody may use the operation.
    needs: Option<Right>,
    takes: &'static [&'static str],
    is_change: bool,
}

impl AccessRules {
    pub(super) fn of(operations: &[Operation]) -> Self {
        let mut rights: HashMap<_, Vec<_>> = HashMap::new();
        for Operation { method, path, needs, takes, is_change, .. } in operations {
            let known = OperationRule { method: method.clone(), needs: *needs, takes, is_change: *is_change };
            rights.entry(path.clone()).or_default().push(known);
        }
        Self(rights)
    }

    /// Returns the right that an operation needs; none also if there is no such operation.
    pub(super) fn needed(&self, route: &str, method: &Method) -> Option<Right> {
        self.of_operation(route, method)?.needs
    }

    /// Refuses a query parameter that the operation does not take: it would do nothing, and nobody would notice.
    /// Outside of `/v1/` and `/telemetry/`, an operation without parameters accepts any: probes and scrapers send
    /// parameters of their own. So do clients of Prometheus.
    pub(super) fn check_parameters(&self, route: &str, method: &Method, query: Option<&str>) -> Result<(), ApiError> {
        let (Some(query), Some(OperationRule { takes, .. })) = (query, self.of_operation(route, method)) else {
            return Ok(());
        };
        let is_own = ["/v1/", "/telemetry/"].iter().any(|api| route.starts_with(api));
        if (takes.is_empty() && !is_own) || route.starts_with("/api/") {
            return Ok(());
        }
        let mut given = form_urlencoded::parse(query.as_bytes());
        match given.find(|(name, _)| !takes.contains(&&**name)) {
            Some((name, _)) => Err(ApiError::new(StatusCode::BAD_REQUEST, unknown("parameter", &name, takes))),
            None => Ok(()),
        }
    }

    /// Returns whether an operation changes something.
    pub(super) fn is_change(&self, route: &str, method: &Method) -> bool {
        self.of_operation(route, method).is_some_and(|known| known.is_change)
    }

    fn of_operation(&self, route: &str, method: &Method) -> Option<&OperationRule> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(route)?.iter().find(|known| known.method == method)
    }
}

impl RequestCaller {
    pub(super) fn of(app: &App, peer: Peer, headers: &HeaderMap) -> Self {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| shown_token(value.as_bytes()));
        let token = shown.map_or(ShownToken::Nothing, |token| app.tokens.recognize(&token));
        let is_session =
            token == ShownToken::Nothing && login::sessions(headers).any(|secret| app.tokens.is_session(secret));
        Self { peer, token, is_session }
    }

    /// Checks whether the caller has a right.
    pub(crate) fn check(&self, app: &App, needed: Right) -> Result<(), ApiError> {
        if needed == Right::Read && self.is_session {
            return Ok(());
        }
        let needs = needed.as_str();
        app.tokens.check(needed, self.token, self.peer.certificate.is_some()).map_err(|refusal| match refusal {
            AccessRefusal::Never => {
                let why = format!(
                    "this needs the {needs} token, and there is none: the host keeps nothing (--memory-only); set \
                     auth.{needs}_token_file"
                );
                ApiError::new(StatusCode::FORBIDDEN, why)
            }
            AccessRefusal::NoCertificate => {
                ApiError::unauthorized("this needs a client certificate; connect again with one")
            }
            AccessRefusal::Missing => ApiError::unauthorized(format!(
                "this needs the {needs} token; send Authorization: Bearer TOKEN{}",
                if needed == Right::Read { ", or log in at /" } else { "" }
            )),
            AccessRefusal::Wrong => {
                if let Err(TooManyWrong(wait)) = app.tokens.count_wrong(self.peer.id()) {
                    return too_many_wrong("tokens", wait);
                }
                ApiError::unauthorized(format!("this is not a token of this host; the request needs the {needs} token"))
            }
            AccessRefusal::TooLittle(shown) => {
                let why = format!("the {} token does not allow this; send the {needs} token", shown.as_str());
                ApiError::new(StatusCode::FORBIDDEN, why)
            }
        })
    }

    /// Returns the caller as the audit log shows it.
    pub(crate) fn for_audit(&self) -> audit::ApiCaller {
        let token = match self.token {
            ShownToken::Token(right) => Some(right.as_str()),
            ShownToken::Nothing | ShownToken::Unknown => None,
        };
        let certificate = self.peer.certificate.as_deref().map(str::to_owned);
        audit::ApiCaller { token, certificate, peer: self.peer.to_string() }
    }
}

/// Returns the error for a client that has shown too many wrong tokens, or has logged in with too many.
pub(super) fn too_many_wrong(what: &str, wait: Duration) -> ApiError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let why = format!("too many wrong {what} from this client; try again later");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, why).retry_after(seconds)
}

/// Returns the token of an `Authorization` header: a bearer token, or the password of `Basic`, whatever the user's name
/// is. Some clients can send only that.
fn shown_token(authorization: &[u8]) -> Option<Vec<u8>> {
    if let Some(token) = bearer(authorization) {
        return Some(token.to_vec());
    }
    let (scheme, encoded) = authorization.split_at_checked(b"Basic ".len())?;
    let decoded = scheme.eq_ignore_ascii_case(b"Basic ").then(|| STANDARD.decode(encoded.trim_ascii()).ok())??;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Returns the token of a bearer's `Authorization` header. The name of the scheme is case-insensitive (RFC 9110).
pub(super) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
