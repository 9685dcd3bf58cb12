//! Logins of browsers. A browser shows a token once and gets a cookie, which allows reading: the streams of a page
//! cannot show a token.
//!
//! A cookie never allows changes, whatever the token allows: a browser sends cookies by itself, so they do not show
//! that the user wants the change.

use super::body::{content_type, read};
use super::error::{ApiError, RefusalReason};
use super::page;
use super::peer::Peer;
use super::rights::{bearer, too_many_wrong};
use super::{AppState, CallerExtension};
use crate::App;
use crate::tokens::TooManyWrong;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use dropsonde_model::Right;
use dropsonde_model::nearest::unknown_key;
use serde::Deserialize;

/// Bytes of the largest login.
const LARGEST: usize = 8 << 10;

const COOKIE: &str = "dropsonde_session";

/// The right of the token that a browser logged in with. It is attached to the answer, for the audit log.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedIn(pub(super) Right);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

/// Logs in with a token from a form, from JSON, or from the `Authorization` header.
pub(super) async fn login(
    State(app): AppState,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    match begin(&app, &caller.peer, &headers, body).await {
        Err(refused) if takes_html(&headers) => Ok(page(refused)),
        begun => begun,
    }
}

async fn begin(app: &App, peer: &Peer, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let sent = sent(app, peer, headers, body).await?;
    let shown = || Some(bearer(headers.get(header::AUTHORIZATION)?.as_bytes())?.to_vec());
    let token = sent.or_else(shown).ok_or_else(|| ApiError::invalid("token", "it is missing"))?;
    let any = Right::ALL.iter().any(|right| app.options.load().token_file(*right).is_some());
    if !any {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "this host has no tokens, so nobody can log in"));
    }
    let attempt = app.tokens.attempt(peer.id(), &token);
    let attempt = attempt.map_err(|TooManyWrong(wait)| too_many_wrong("logins", wait))?;
    let wrong = || ApiError::unauthorized("this is not a token of this host");
    attempt.ok_or_else(wrong)?;
    let begun = app.tokens.begin_session(&token, &app.options.load());
    let begun = begun.map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let (session, right) = begun.ok_or_else(wrong)?;
    let mut response = with_cookie(app, headers, session.secret(), session.lifetime.as_secs());
    response.extensions_mut().insert(LoggedIn(right));
    Ok(response)
}

/// Ends the sessions of the request's cookies, also for clients that have copies of them.
pub(super) async fn logout(State(app): AppState, headers: HeaderMap) -> Response {
    sessions(&headers).for_each(|secret| app.tokens.end_session(secret));
    with_cookie(&app, &headers, "", 0)
}

/// Returns the token in the body; none if there is no body.
async fn sent(app: &App, peer: &Peer, headers: &HeaderMap, body: Body) -> Result<Option<Vec<u8>>, ApiError> {
    let bytes = read(app, peer, headers, body, LARGEST).await?;
    let kind = content_type(headers);
    if bytes.is_empty() && kind.is_none() {
        return Ok(None);
    }
    let token = match kind.as_deref() {
        Some("application/x-www-form-urlencoded") => {
            let mut fields = form_urlencoded::parse(&bytes);
            let token = fields.find(|(name, _)| name == "token");
            token
                .map(|(_, token)| token.trim().to_owned())
                .ok_or_else(|| ApiError::invalid("token", "it is missing"))?
        }
        Some("application/json") => {
            let login: Login = serde_json::from_slice(&bytes).map_err(|error| {
                let text = std::str::from_utf8(&bytes).ok();
                let unknown = text.and_then(|text| unknown_key(text, &["token"]));
                ApiError::invalid("body", unknown.unwrap_or_else(|| error.to_string()))
            })?;
            login.token
        }
        _ => {
            let why = "unsupported Content-Type; send the token in a form, as application/json, or as \
                       Authorization: Bearer TOKEN";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    Ok(Some(token.into_bytes()))
}

/// Answers with a cookie. Browsers are redirected to `/`; programs get a status.
fn with_cookie(app: &App, request: &HeaderMap, secret: &str, seconds: u64) -> Response {
    let secure = if app.options.load().tls.files().is_some() { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut response = if takes_html(request) {
        (StatusCode::SEE_OTHER, [(header::LOCATION, HeaderValue::from_static("/"))]).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Returns the secrets of the sessions that a browser shows. Other programs on the same host name may have set cookies
/// of this name, too.
pub(super) fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).map(|(_, secret)| secret.as_bytes())
}

/// Returns whether a person in front of a browser sent the request.
pub(super) fn wants_page(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET && takes_html(headers)
}

/// Returns a refusal as a login page.
pub(super) fn page(refused: ApiError) -> Response {
    let status = refused.status();
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
    ];
    let mut response = (status, headers, Html(page::login(&refused.to_string()))).into_response();
    if let Some(seconds) = refused.retries_after() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response.extensions_mut().insert(RefusalReason(refused.to_string()));
    response
}

fn takes_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}
