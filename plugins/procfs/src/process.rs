//! One process: its id, its files, its row.

use crate::census::Process;
use crate::choice::Candidate;
use crate::clock::{age, ticks_to_seconds};
use crate::memory;
use crate::names::{program_id, sanitised, short};
use crate::row::Row;
use crate::shared::TickFiles;
use crate::totals::Totals;
use dropsonde_guest::files::{self, FileError};
use dropsonde_guest::{Failure, Instance};
use regex_lite::Regex;

pub(crate) const PROC: &str = "/proc";

/// Most bytes of a command line that are matched. Arguments can have megabytes.
const COMMAND_LINE_BYTES: u32 = 4096;

/// Identifies a process among all others since boot: a pid is used again, but not with the same start time.
///
/// Written as `nginx-1234-56789`: the program, for people; the pid; the start time in ticks after boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
}

/// The measured values of one process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    pub(crate) comm: String,
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: u64,
    pub(crate) resident_mb: Option<f64>,
}

/// The relevant part of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProcessStat<'a> {
    comm: &'a str,
    state: &'a str,
    /// User and system time in ticks, without the time of its children.
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    /// 0 for kernel threads and for processes that have ended.
    virtual_bytes: u64,
    /// Only for comparisons: the size of a page is not known here.
    resident_pages: u64,
}

/// Examines a process. `None` if it has no memory or does not exist any more.
pub(crate) fn look<'a>(pid: u32, patterns: impl Iterator<Item = &'a Regex>) -> Option<Process> {
    let mut patterns = patterns.peekable();
    let mut matches = Vec::new();
    if patterns.peek().is_some() {
        let raw = files::read_range(&format!("/proc/{pid}/cmdline"), 0, COMMAND_LINE_BYTES).unwrap_or_default();
        let line = command_line(&String::from_utf8_lossy(&raw));
        matches = patterns.map(|pattern| pattern.is_match(&line)).collect();
    }
    let text = files::read_to_string(&format!("/proc/{pid}/stat")).ok()?;
    let stat = parse_stat(&text).filter(|stat| stat.virtual_bytes > 0)?;
    Some(Process {
        start_ticks: stat.start_ticks,
        comm: stat.comm.to_owned(),
        program: program_id(stat.comm),
        resident_pages: stat.resident_pages,
        matches,
    })
}

/// Measures one process.
pub(crate) fn measure(id: &ProcessId) -> Result<Measured, Failure> {
    let pid = id.pid;
    let text = match files::read_to_string(&format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(FileError::NotFound(_)) => return Err(Failure::Gone),
        // Without the start time it is unknown which process the other files belong to.
        Err(error) => return Err(error.into()),
    };
    let stat = parse_stat(&text).ok_or_else(|| Failure::unavailable(format!("/proc/{pid}/stat: unknown format")))?;
    if stat.start_ticks != id.start_ticks || stat.has_ended() {
        return Err(Failure::Gone);
    }
    let status = files::read_to_string(&format!("/proc/{pid}/status"));
    Ok(Measured {
        comm: stat.comm.to_owned(),
        cpu_ticks: stat.cpu_ticks,
        threads: stat.threads,
        resident_mb: status.ok().and_then(|status| memory::parse_resident_mb(&status)),
    })
}

/// Returns the row of one process.
pub(crate) fn row(id: &ProcessId, shared: &mut TickFiles, totals: &mut Totals) -> Result<Row, Failure> {
    let measured = measure(id)?;
    let (moment, cpus) = (shared.moment(), shared.cpus());
    Ok(Row {
        cpu_seconds: Some(totals.of_process(*id, ticks_to_seconds(measured.cpu_ticks), moment, cpus)),
        memory_used_mb: measured.resident_mb,
        memory_limit_mb: shared.memory().limit_mb,
        uptime_seconds: moment.uptime.and_then(|now| age(now, ticks_to_seconds(id.start_ticks))),
        threads: Some(measured.threads as f64),
        ..Row::default()
    })
}

// === impl ProcessId ===

impl ProcessId {
    /// Returns the id as text, with the program in front.
    pub(crate) fn to_string_for(self, comm: &str) -> String {
        let Self { pid, start_ticks } = self;
        format!("{}-{pid}-{start_ticks}", short(comm))
    }

    /// Returns the instance of one process.
    pub(crate) fn instance(candidate: &Candidate) -> Instance {
        let (_, pid) = candidate.age;
        Instance::new(&candidate.id)
            .label("kind", "process")
            .label("program", &candidate.name)
            .label("pid", pid.to_string())
    }

    /// Parses the id of such an instance.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let mut parts = id.rsplitn(3, '-');
        let start_ticks = number(parts.next()?)?;
        let pid = number(parts.next()?)?;
        let name = parts.next()?;
        (!name.is_empty() && sanitised(name) == name).then_some(Self { pid, start_ticks })
    }
}

// === impl ProcessStat ===

impl ProcessStat<'_> {
    /// Returns whether the process has ended. A zombie has ended and waits for its parent to notice, unless it has
    /// threads left: then only its first thread has ended.
    fn has_ended(&self) -> bool {
        match self.state {
            "X" | "x" => true,
            "Z" => self.threads <= 1,
            _ => false,
        }
    }
}

/// Parses /proc/PID/stat. The name is between the first `(` and the last `)`, because it may contain parentheses,
/// spaces and newlines. The columns after it are counted from 3, as in the manual.
fn parse_stat(text: &str) -> Option<ProcessStat<'_>> {
    let (_pid, rest) = text.split_once('(')?;
    let (comm, rest) = rest.rsplit_once(')')?;
    let columns: Vec<&str> = rest.split_whitespace().collect();
    let column = |number: usize| columns.get(number.checked_sub(3)?).copied();
    let count = |number| column(number)?.parse::<u64>().ok();
    Some(ProcessStat {
        comm,
        state: column(3)?,
        cpu_ticks: count(14)?.saturating_add(count(15)?),
        threads: count(20)?,
        start_ticks: count(22)?,
        virtual_bytes: count(23)?,
        // The kernel writes a signed number.
        resident_pages: column(24)?.parse::<i64>().ok()?.max(0).unsigned_abs(),
    })
}

/// Returns the arguments, joined by spaces, as `pgrep -f` matches them. The kernel ends each with a NUL.
fn command_line(raw: &str) -> String {
    raw.trim_end_matches('\0').replace('\0', " ")
}

/// Parses a number that has only digits and no leading zero, so that an id has one spelling.
pub(crate) fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after the name in a /proc/PID/stat.
    const AFTER_NAME: &str = " S 1 4221 4221 0 -1 4194560 3512 9001 12 3 250 75 900 400 20 0 7 0 182633 \
        118546432 2471 18446744073709551615 1 1 0 0 0 0 0 4096 65536 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    fn stat_of(name: &str) -> String {
        format!("4221 ({name}){AFTER_NAME}")
    }

    const ID: ProcessId = ProcessId { pid: 4221, start_ticks: 182_633 };

    #[test]
    fn a_process_has_its_own_time_not_that_of_its_children() {
        let text = stat_of("nginx");
        let expected = ProcessStat {
            comm: "nginx",
            state: "S",
            cpu_ticks: 325,
            threads: 7,
            start_ticks: 182_633,
            virtual_bytes: 118_546_432,
            resident_pages: 2471,
        };
        assert_eq!(parse_stat(&text), Some(expected));
    }

    #[test]
    fn a_process_name_may_hold_spaces_and_parentheses() {
        for name in ["tmux: server", "(sd-pam)", "a) R 1 (b", ")", "(", "", "two\nlines", "Größe ✓"] {
            let text = stat_of(name);
            let stat = parse_stat(&text).unwrap();
            assert_eq!((stat.comm, stat.state, stat.start_ticks), (name, "S", 182_633), "{name:?}");
        }
    }

    #[test]
    fn text_that_is_no_stat_gives_nothing() {
        let whole = stat_of("nginx");
        let enough = whole.find(" 2471").unwrap();
        for end in (0..=enough).filter(|end| whole.is_char_boundary(*end)) {
            assert_eq!(parse_stat(&whole[..end]), None, "{}", &whole[..end]);
        }
        for text in [")(", "1 (x) S x", &whole.replace("182633", "-1"), &whole.replace("250", "1e3")] {
            assert_eq!(parse_stat(text), None, "{text}");
        }
    }

    #[test]
    fn a_zombie_has_ended_unless_threads_are_left() {
        let zombie = stat_of("nginx").replace(" S ", " Z ");
        assert!(!parse_stat(&zombie).unwrap().has_ended());
        let alone = zombie.replace(" 20 0 7 ", " 20 0 1 ");
        assert!(parse_stat(&alone).unwrap().has_ended());
        assert!(!parse_stat(&stat_of("nginx")).unwrap().has_ended());
    }

    #[test]
    fn an_id_reads_back_as_the_process_it_was_made_for() {
        for (comm, id) in [
            ("nginx", "nginx-4221-182633"),
            ("tmux: server", "tmux__server-4221-182633"),
            ("kworker/0-1", "kworker_0-1-4221-182633"),
            ("ü\n", "__-4221-182633"),
            ("", "process-4221-182633"),
        ] {
            assert_eq!(ID.to_string_for(comm), id);
            assert_eq!(ProcessId::parse(id), Some(ID));
        }
    }

    #[test]
    fn a_name_of_any_length_makes_an_id_that_fits() {
        assert!(ID.to_string_for(&"x".repeat(10_000)).len() < 256);
    }

    #[test]
    fn an_id_has_one_spelling() {
        for id in ["nginx-04221-182633", "nginx-4221-+1", "nginx-4221-", "nginx--1", "-4221-1", "a b-4221-1", "1-2"] {
            assert_eq!(ProcessId::parse(id), None, "{id}");
        }
    }

    #[test]
    fn a_vanished_process_is_gone() {
        // Above the largest pid of the kernel, 2^22.
        let vanished = ProcessId { pid: 4_194_305, start_ticks: 1 };
        assert_eq!(measure(&vanished), Err(Failure::Gone));
    }

    #[test]
    fn a_command_line_is_its_arguments_with_spaces_between() {
        assert_eq!(command_line("nginx\0-g\0daemon off;\0"), "nginx -g daemon off;");
        // A program that writes its own title leaves the rest of the space empty.
        assert_eq!(command_line("postgres: writer\0\0\0\0"), "postgres: writer");
        assert_eq!(command_line(""), "");
    }
}
