//! Makes the dashboard's files part of the binary.
//!
//! The sources in `dashboard/` are what the browser runs: there is no bundler, and nobody needs Node to build the host.
//! Each file gets one name without folders (`lib/api.js` is `lib-api.js`), the imports in it get these names, and it is
//! compressed. All files together have one version, a hash of their content: it is part of their addresses, so that a
//! browser can keep them for ever.
//!
//! The page loads `app.js` and all modules that it imports, directly or not. A module that is named by `import('…')` is
//! loaded when a view needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The folders with files for the browser.
const FOLDERS: &[&str] = &["", "lib", "parts", "views", "vendor"];

/// The packages that vendored libraries import, and their files.
const PACKAGES: &[(&str, &str)] = &[("preact", "vendor/preact.mjs")];

const BROTLI_QUALITY: i32 = 11;
const BROTLI_WINDOW: i32 = 22;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("dashboard");
    let mut files = BTreeMap::new();
    let mut imports = BTreeMap::new();
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if kind(&path).is_none() {
                continue;
            }
            println!("cargo::rerun-if-changed={}", path.display());
            let inside = path.strip_prefix(root)?;
            let text = fs::read_to_string(&path)?;
            let text = if folder == &"vendor" { text } else { without_comments(&text) };
            let is_style = inside.extension().is_some_and(|end| end == "css");
            let (text, modules) = if is_style { (text, Vec::new()) } else { imported(&text, inside)? };
            files.insert(flat(inside), text);
            imports.insert(flat(inside), modules);
        }
    }
    let with_page = reached(&imports, "app.js");
    let mut version = blake3::Hasher::new();
    for (name, text) in &files {
        version.update(name.as_bytes()).update(&text.len().to_le_bytes()).update(text.as_bytes());
    }
    let version = version.finalize().to_hex();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut table = format!("pub(super) const VERSION: &str = {:?};\n", version.get(..16).ok_or("a short hash")?);
    table.push_str("pub(super) static ASSETS: &[Asset] = &[\n");
    for (name, text) in &files {
        fs::write(out.join(name), text)?;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(text.as_bytes())?;
        fs::write(out.join(format!("{name}.gz")), gzip.finish()?)?;
        let mut brotli = Vec::new();
        let options =
            brotli::enc::BrotliEncoderParams { quality: BROTLI_QUALITY, lgwin: BROTLI_WINDOW, ..Default::default() };
        brotli::BrotliCompress(&mut text.as_bytes(), &mut brotli, &options)?;
        fs::write(out.join(format!("{name}.br")), brotli)?;
        let kind = kind(Path::new(name)).unwrap_or_default();
        let bytes = |end: &str| format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}{end}\"))");
        writeln!(
            table,
            "    Asset {{ name: {name:?}, kind: {kind:?}, is_with_page: {}, plain: {}, gzip: {}, brotli: {} }},",
            with_page.contains(name),
            bytes(""),
            bytes(".gz"),
            bytes(".br")
        )?;
    }
    table.push_str("];\n");
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}

/// Returns the content type of a file for the browser.
fn kind(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "js" | "mjs" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        _ => None,
    }
}

/// Returns the name of a file without folders.
fn flat(inside: &Path) -> String {
    inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("-")
}

/// Leaves out the comments that have lines of their own, and indentation: they are a tenth of what would be sent.
fn without_comments(text: &str) -> String {
    let mut is_comment = false;
    let mut rest = String::with_capacity(text.len());
    for line in text.lines().map(str::trim) {
        is_comment |= line.starts_with("/*");
        if !is_comment && !line.starts_with("//") && !line.is_empty() {
            rest.push_str(line);
            rest.push('\n');
        }
        is_comment &= !line.ends_with("*/");
    }
    rest
}

/// Replaces what a module imports: each file has its name without folders. Returns the names that are loaded with it.
fn imported(text: &str, inside: &Path) -> Result<(String, Vec<String>), Box<dyn Error>> {
    const LATER: &str = "import(";
    let mut rest = text;
    let mut done = String::with_capacity(text.len());
    let mut modules = Vec::new();
    while let Some((at, word)) = ["from", LATER].iter().filter_map(|word| Some((rest.find(word)?, *word))).min() {
        let (before, after) = rest.split_at(at + word.len());
        done.push_str(before);
        rest = after;
        let open = after.trim_start_matches(' ');
        let Some(quote) = open.chars().next().filter(|quote| matches!(quote, '\'' | '"')) else { continue };
        let Some((specifier, tail)) = open.get(1..).and_then(|inner| inner.split_once(quote)) else { continue };
        let Some(file) = resolved(specifier, inside) else { continue };
        if !Path::new("dashboard").join(&file).is_file() {
            return Err(format!("{} imports {specifier}, which is no file", inside.display()).into());
        }
        let name = flat(&file);
        write!(done, "{quote}./{name}{quote}")?;
        rest = tail;
        if word != LATER {
            modules.push(name);
        }
    }
    done.push_str(rest);
    Ok((done, modules))
}

/// Returns a module, the modules that it imports, and so on.
fn reached(imports: &BTreeMap<String, Vec<String>>, first: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut next = vec![first.to_owned()];
    while let Some(name) = next.pop() {
        next.extend(imports.get(&name).into_iter().flatten().filter(|name| !all.contains(*name)).cloned());
        all.insert(name);
    }
    all
}

/// Returns the file that an import names. None: the text is no import.
fn resolved(specifier: &str, inside: &Path) -> Option<PathBuf> {
    if let Some((_, file)) = PACKAGES.iter().find(|(package, _)| *package == specifier) {
        return Some(PathBuf::from(file));
    }
    let mut folder = inside.parent()?.to_path_buf();
    let mut rest = specifier;
    if !rest.starts_with("./") && !rest.starts_with("../") {
        return None;
    }
    loop {
        if let Some(up) = rest.strip_prefix("../") {
            folder.pop();
            rest = up;
        } else if let Some(here) = rest.strip_prefix("./") {
            rest = here;
        } else {
            return Some(folder.join(rest));
        }
    }
}
