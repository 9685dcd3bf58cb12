use anyhow::{Context, Result};
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, SectionTable};

/// Returns the newest version of glibc whose symbols a binary uses: it runs with that one and with every later one.
pub(super) fn oldest(binary: &[u8]) -> Result<(u32, u32)> {
    let header = FileHeader64::<Endianness>::parse(binary).context("the binary is no 64-bit ELF file")?;
    let endian = header.endian()?;
    let sections: SectionTable<'_, FileHeader64<Endianness>> = header.sections(endian, binary)?;
    let needed = sections.gnu_verneed(endian, binary)?.context("the binary names no versions of libraries")?;
    let (mut needed, strings) = (needed.0, sections.strings(endian, binary, needed.1)?);
    let mut newest = None;
    while let Some((_, mut versions)) = needed.next()? {
        while let Some(version) = versions.next()? {
            let name = version.name(endian, strings)?;
            newest = newest.max(std::str::from_utf8(name).ok().and_then(parse));
        }
    }
    newest.context("the binary uses no glibc")
}

/// Parses `GLIBC_2.34`. A third number is dropped.
fn parse(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_a_binary_needs_is_found() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (major, minor) = oldest(&own).unwrap();
        assert!(major == 2 && (14..80).contains(&minor), "{major}.{minor}");
        assert!(oldest(b"#!/bin/sh").is_err());
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse("GLIBC_2.34") > parse("GLIBC_2.9") && parse("GLIBC_2.2.5") == Some((2, 2)));
        assert_eq!((parse("GLIBC_PRIVATE"), parse("GCC_3.0")), (None, None));
    }
}
