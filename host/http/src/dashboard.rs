//! The files of the dashboard, which `build.rs` makes out of `dashboard/`.

use super::content_negotiation::{takes_brotli, takes_gzip};
use super::error::ApiError;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::fmt::Write as _;

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file for the browser, as it is and compressed.
pub(super) struct Asset {
    name: &'static str,
    kind: &'static str,
    /// Whether the page needs it at once; otherwise a view that is opened.
    is_with_page: bool,
    plain: &'static [u8],
    gzip: &'static [u8],
    brotli: &'static [u8],
}

/// The address of the file has its version, so it never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Returns the elements of a page's head that load the style sheet.
pub(super) fn style() -> String {
    format!("<link rel=\"stylesheet\" href=\"/assets/{VERSION}/style.css\">")
}

/// Returns the elements of a page's head that load the application. The browser fetches its modules at once.
pub(super) fn application() -> String {
    let mut head = style();
    let _ = write!(
        head,
        "<link rel=\"stylesheet\" href=\"/assets/{VERSION}/vendor-uplot.css\">\
         <script defer src=\"/assets/{VERSION}/vendor-uplot.js\"></script>\
         <script type=\"module\" src=\"/assets/{VERSION}/app.js\"></script>"
    );
    for Asset { name, .. } in ASSETS.iter().filter(|asset| asset.is_with_page) {
        let _ = write!(head, "<link rel=\"modulepreload\" href=\"/assets/{VERSION}/{name}\">");
    }
    head
}

/// Returns the elements of the login page's head.
pub(super) fn login() -> String {
    format!("{}<script type=\"module\" src=\"/assets/{VERSION}/login.js\"></script>", style())
}

pub(crate) async fn asset(
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path((version, name)) = path.map_err(|why| ApiError::invalid("path", why.body_text()))?;
    let asset = ASSETS.iter().find(|asset| asset.name == name && version == VERSION);
    let asset = asset.ok_or_else(|| ApiError::not_found("no such file of this version; reload the page"))?;
    let (bytes, encoding) = if takes_brotli(&headers) {
        (asset.brotli, Some("br"))
    } else if takes_gzip(&headers) {
        (asset.gzip, Some("gzip"))
    } else {
        (asset.plain, None)
    };
    let own = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, FOR_EVER),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    let mut response = (own, bytes).into_response();
    if let Some(encoding) = encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// The largest allowed size of what a browser loads before it shows anything, compressed with brotli, in bytes.
    const MOST: usize = 60_000;

    /// The same of what it loads when a view is opened.
    const MOST_LATER: usize = 20_000;

    #[test]
    fn the_dashboard_is_small() {
        let is_at_once = |asset: &&Asset| {
            asset.is_with_page || ["style.css", "vendor-uplot.css", "vendor-uplot.js"].contains(&asset.name)
        };
        let (at_once, later): (Vec<_>, Vec<_>) = ASSETS.iter().partition(is_at_once);
        let bytes = |assets: &[&Asset]| assets.iter().map(|asset| asset.brotli.len()).sum::<usize>();
        let (at_once, later) = (bytes(&at_once), bytes(&later));
        assert!((1..=MOST).contains(&at_once) && (1..=MOST_LATER).contains(&later), "{at_once} and {later} bytes");
    }

    #[test]
    fn vendored_libraries_are_the_files_of_their_packages() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard/vendor");
        let readme = std::fs::read_to_string(format!("{folder}/README.md")).unwrap();
        let mut count = 0;
        for row in readme.lines().filter(|line| line.starts_with("| `")) {
            let quoted: Vec<_> = row.split('`').skip(1).step_by(2).collect();
            let (file, checksum) = (quoted[0], *quoted.last().unwrap());
            let bytes = std::fs::read(format!("{folder}/{file}")).unwrap();
            let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, checksum, "{file}");
            count += 1;
        }
        let is_code = |name: &str| [".js", ".mjs", ".css"].iter().any(|end| name.ends_with(end));
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(count, files.filter(|name| is_code(name)).count());
    }

    #[test]
    fn no_file_of_the_dashboard_names_another_server() {
        for asset in ASSETS.iter().filter(|asset| !asset.name.starts_with("vendor-")) {
            let text = std::str::from_utf8(asset.plain).unwrap();
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", asset.name);
        }
    }
}
