//! The row of a program: the sum over its processes.

use crate::census::Allowance;
use crate::choice::Candidate;
use crate::clock::{age, ticks_to_seconds};
use crate::process::{self, Measured, ProcessId};
use crate::row::Row;
use crate::shared::TickFiles;
use crate::totals::Totals;
use dropsonde_guest::{Failure, Instance};

/// Number of files to read per process.
const READS: usize = 2;

/// Returns the instance of one program.
pub(crate) fn instance(candidate: &Candidate) -> Instance {
    Instance::new(&candidate.id).label("kind", "program").label("program", &candidate.name)
}

/// Measures a program's processes. A process that ended meanwhile is left out.
///
/// A program with more processes than one call can read is not measured in part. The failure says what to raise.
pub(crate) fn measure(
    id: &str,
    members: &[ProcessId],
    allowance: &mut Allowance,
) -> Result<Vec<(ProcessId, Measured)>, Failure> {
    let reads = members.len().saturating_mul(READS);
    if !allowance.take(reads) {
        return Err(Failure::unavailable(format!(
            "{id} has {} processes: reading them takes {reads} reads, but this call has only {} left; raise \
             plugins.procfs.limits.cpu",
            members.len(),
            allowance.reads
        )));
    }
    let mut measured = Vec::new();
    for member in members {
        match process::measure(member) {
            Ok(one) => measured.push((*member, one)),
            Err(Failure::Gone) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(measured)
}

/// Returns the row of a program with these processes, at least one.
pub(crate) fn row(id: &str, processes: &[(ProcessId, Measured)], shared: &mut TickFiles, totals: &mut Totals) -> Row {
    let (moment, cpus) = (shared.moment(), shared.cpus());
    let ticks: Vec<(ProcessId, u64)> = processes.iter().map(|(id, one)| (*id, one.cpu_ticks)).collect();
    let oldest = processes.iter().map(|(id, _)| id.start_ticks).min();
    let age = moment.uptime.zip(oldest).and_then(|(now, started)| age(now, ticks_to_seconds(started)));
    let resident = processes.iter().filter_map(|(_, one)| one.resident_mb).reduce(|sum, one| sum + one);
    Row {
        cpu_seconds: Some(totals.of_program(id, &ticks, moment, cpus)),
        memory_used_mb: resident,
        memory_limit_mb: shared.memory().limit_mb,
        uptime_seconds: age,
        processes: Some(processes.len() as f64),
        threads: Some(processes.iter().map(|(_, one)| one.threads as f64).sum()),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_more_processes_than_one_call_can_read_says_what_to_raise() {
        let members: Vec<ProcessId> = (1..=5000).map(|pid| ProcessId { pid, start_ticks: 1 }).collect();
        let why = match measure("php-fpm", &members, &mut Allowance::of(100)) {
            Err(Failure::Unavailable(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why.starts_with("php-fpm has 5000 processes") && why.contains("limits.cpu"), "{why}");
    }
}
