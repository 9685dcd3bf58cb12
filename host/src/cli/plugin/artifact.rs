//! `dropsonde plugin pull`, `push`, `sign` and `verify`: plugins in registries, and their signatures.

use super::check;
use super::{CheckArgs, PullArgs, PushArgs, SignArgs, VerifyArgs};
use crate::cli::out::Out;
use crate::config::TrustedKeys;
use anyhow::{Context as _, Result, ensure};
use dropsonde_model::names::is_plugin;
use dropsonde_registry::{About, Credentials, Registry};
use dropsonde_sandbox::replace::{SHARED, replace_file};
use minisign::SecretKeyBox;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) async fn pull(args: PullArgs, out: &mut Out) -> Result<()> {
    let trusted = trusted_keys(&args.key, &args.data)?;
    let reference = &args.reference;
    let usual = || PathBuf::from(format!("{}.wasm", reference.repository.rsplit('/').next().unwrap_or_default()));
    let file = args.out.unwrap_or_else(usual);
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let is_plugin_file = is_plugin(&name) && file.extension().is_some_and(|extension| extension == "wasm");
    ensure!(is_plugin_file, "no plugin can be called {name:?}: name a file such as redis.wasm with --out");
    let registry = Registry::new(reference, Credentials::of_user())?;
    let found = registry.find(reference).await?;
    found.check_sha256(args.sha256.as_deref(), "--sha256")?;
    let component = registry.pull(&found).await?;
    if !trusted.is_empty() {
        let signature = found.signature();
        let signature = signature.with_context(|| format!("{reference}: it is not signed, and a key is wanted"))?;
        trusted.verify(&component, signature).with_context(|| reference.to_string())?;
    }
    // The new component is checked beside the one that it replaces.
    let folder = private_folder_beside(&file)?;
    let new = folder.join(file.file_name().context("--out names no file")?);
    let shown = async {
        fs::write(&new, &component).with_context(|| format!("cannot write {}", new.display()))?;
        let against = file.exists().then(|| file.clone());
        check::check(CheckArgs { file: new.clone(), against, config: "{}".to_owned(), json: false }, out).await
    };
    let shown = shown.await;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    shown?;
    let signature = TrustedKeys::signature_of(&file);
    match found.signature() {
        Some(text) => write(&signature, text.as_bytes())?,
        // That of another version would be wrong.
        None if signature.exists() => {
            fs::remove_file(&signature).with_context(|| format!("cannot remove {}", signature.display()))?;
        }
        None => {}
    }
    write(&file, &component)?;
    let signed = match (found.signature(), trusted.is_empty()) {
        (Some(_), false) => ", signed by a trusted key",
        (Some(_), true) => ", with a signature that nobody checked: name a key with --key",
        (None, _) => "",
    };
    say!(out, "\n{}  {} bytes{signed}", file.display(), component.len());
    say!(out, "To have a host pull it, add to the configuration:\n\n[plugins.{name}]\nfrom = \"{}\"", found.pinned);
    Ok(())
}

/// Makes a folder for this user beside a file.
fn private_folder_beside(file: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = file.with_extension(format!("pulled-{}", std::process::id()));
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

pub(super) async fn push(args: PushArgs, out: &mut Out) -> Result<()> {
    let component = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    // A registry is full of what others trust: only what a host would load is pushed.
    let checked = check::CheckedComponent::load(&args.file, "{}").await?;
    let signature = TrustedKeys::signature_of(&args.file);
    let signature = match fs::read_to_string(&signature) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", signature.display())),
    };
    let registry = Registry::new(&args.reference, Credentials::of_user())?;
    let annotations: BTreeMap<String, String> = checked
        .about()
        .into_iter()
        .map(|(name, value)| (format!("org.opencontainers.image.{name}"), value))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let signed = if signature.is_some() { "signed" } else { "not signed" };
    let shape = checked.plugin.shape();
    let (exports, imports) = (shape.exports.clone(), shape.imports.clone());
    let about = About { signature, exports, imports, annotations };
    let pinned = registry.push(&args.reference, component.into(), &about).await?;
    say!(out, "{pinned}  {signed}");
    Ok(())
}

pub(super) fn sign(args: &SignArgs, out: &mut Out) -> Result<()> {
    let component = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let key = fs::read_to_string(&args.key).with_context(|| format!("cannot read {}", args.key.display()))?;
    let parsed = || {
        SecretKeyBox::from_string(&key).with_context(|| format!("{} is no secret key of minisign", args.key.display()))
    };
    let password = match &args.password_file {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
        None => None,
    };
    let key = match parsed()?.into_unencrypted_secret_key() {
        Ok(key) => key,
        // It asks for the password on the terminal.
        Err(_) => parsed()?.into_secret_key(password).with_context(|| format!("cannot open {}", args.key.display()))?,
    };
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let signature = minisign::sign(None, &key, component.as_slice(), Some(&format!("file:{name}")), None)?;
    let path = TrustedKeys::signature_of(&args.file);
    write(&path, signature.into_string().as_bytes())?;
    say!(out, "{}", path.display());
    Ok(())
}

pub(super) fn verify(args: &VerifyArgs, out: &mut Out) -> Result<()> {
    let trusted = trusted_keys(&args.key, &args.data)?;
    ensure!(!trusted.is_empty(), "no key to verify with: name one with --key, or in trusted_keys of the configuration");
    let component = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    trusted.verify_file(&args.file, &component).with_context(|| args.file.display().to_string())?;
    say!(out, "{}  signed by a trusted key", args.file.display());
    Ok(())
}

/// Returns the keys that were named, as text or by file; else those of the configuration.
fn trusted_keys(named: &[String], data: &crate::cli::DataArgs) -> Result<TrustedKeys> {
    if named.is_empty() {
        return Ok(TrustedKeys::new(data.config()?.trusted_keys));
    }
    let key = |named: &String| {
        let text = match fs::read_to_string(named) {
            // The first line of minisign's file is a comment.
            Ok(text) => text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned(),
            Err(_) => named.clone(),
        };
        let is_key = minisign::PublicKey::from_base64(&text).is_ok();
        ensure!(is_key, "--key {named}: neither a public key of minisign nor a file with one");
        Ok(text)
    };
    Ok(TrustedKeys::new(named.iter().map(key).collect::<Result<_>>()?))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, bytes, SHARED).with_context(|| format!("cannot write {}", path.display()))
}
