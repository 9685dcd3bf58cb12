//! Compiles components in a child process of this binary. In this process, the time and memory to compile an unknown
//! component would have no limit, and compiling could not be cancelled. A child process has limits and can be killed.
//!
//! The component goes to the child's standard input, and the compiled one comes from its standard output. If the
//! component is invalid, the child writes one line to standard error and exits with code 1; if it did not get enough
//! memory, with code 3. The child ends when its parent does, also if the parent is killed, and when its time is over.
//! `compile_queue` decides which compile runs next.

use crate::compile_queue::{End, Turn};
use crate::error::is_out_of_memory;
use crate::instance_memory;
use crate::refusal::Refused;
use crate::sandbox;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, set_parent_process_death_signal, setpriority_pgrp,
    setpriority_process, setrlimit,
};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Once;
use std::thread;
use std::time::Duration;
use wasmtime::Engine;

/// Address space of the child, in bytes. Compiling a Python interpreter takes less than half a GiB.
const ADDRESS_SPACE: u64 = 2 << 30;

/// Largest compiled component, in bytes. A Python interpreter has 33 MB.
const LARGEST_OUTPUT: u64 = 256 << 20;

/// Set in the environment of a process that was started to compile, so that it can detect when it does something else
/// instead.
pub const COMPILING: &str = "DROPSONDE_COMPILING";

/// Exit codes of the child.
const INVALID: u8 = 1;
const NO_MEMORY: u8 = 3;

/// Niceness of the child in the quick lane; the threads of plugins have the same.
const NICE: i32 = 10;

/// Niceness in the slow lane: behind everything else on the machine.
const SLOW_NICE: i32 = 19;

/// The program that compiles, and the argument that makes it do so.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub(crate) program: OsString,
    pub(crate) argument: OsString,
}

/// The result of a compile.
pub(crate) enum Outcome {
    Compiled(Vec<u8>),
    /// The compile was stopped to give its place to others.
    Displaced,
}

impl Compiler {
    /// Compiles a component within `limit`. If the compile takes long, its turn gives the place to others.
    pub(crate) fn compile(&self, component: &[u8], limit: Duration, turn: &Turn) -> Result<Outcome, Refused> {
        static TOLD: Once = Once::new();
        if let Some(shortage) = shortage() {
            TOLD.call_once(|| tracing::warn!("plugins may fail to compile: {shortage}"));
        }
        let cpu_seconds = cpu_seconds(limit);
        let child = Command::new(&self.program)
            .arg(&self.argument)
            .arg(cpu_seconds.to_string())
            .env(COMPILING, "1")
            // The child gets a process group of its own, so that the priority of all its threads can be lowered at
            // once.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child =
            child.map_err(|error| Refused::Compiler(format!("the compiler process cannot be started: {error}")))?;
        let (compiled, end) = thread::scope(|scope| {
            let pid = Pid::from_child(&child);
            let watch = scope.spawn(move || {
                let end = turn.watch(limit, || _ = setpriority_pgrp(Some(pid), SLOW_NICE));
                if end != End::Done {
                    // The pid stays valid until the child is waited for.
                    let _ = kill_process(pid, Signal::KILL);
                }
                end
            });
            let compiled = talk(&mut child, component);
            if compiled.is_err() {
                let _ = child.kill();
            }
            turn.done();
            (compiled, watch.join().unwrap_or(End::GivenUp))
        });
        let status = child.wait();
        match end {
            End::Done => {}
            End::Displaced => return Ok(Outcome::Displaced),
            End::TooLong => {
                let limit = limit.as_secs_f64();
                return Err(Refused::Compiler(format!("it took longer than {limit} s; raise limits.compile_time")));
            }
            End::GivenUp => return Err(Refused::Compiler("nobody waits for it any more".to_owned())),
        }
        let (compiled, complaint) = compiled.map_err(|error| Refused::Compiler(error.to_string()))?;
        match status {
            Ok(status) if status.success() => Ok(Outcome::Compiled(compiled)),
            Ok(status) if status.code() == Some(i32::from(INVALID)) => {
                Err(Refused::Invalid(complaint.trim().to_owned()))
            }
            Ok(status) => Err(Refused::Compiler(shortage().unwrap_or_else(|| {
                format!(
                    "it used more than {cpu_seconds} s of CPU time (limits.compile_time on each processor) or \
                     {ADDRESS_SPACE} bytes of memory ({status})"
                )
            }))),
            Err(error) => Err(Refused::Compiler(error.to_string())),
        }
    }
}

/// Returns the limit of CPU seconds for all threads together: as many as there can be within the time limit.
fn cpu_seconds(limit: Duration) -> u64 {
    let processors = thread::available_parallelism().map_or(1, |processors| processors.get() as u64);
    limit.as_secs().saturating_add(1).saturating_mul(processors)
}

/// Writes the input and reads the output at the same time, so that neither side waits for the other.
fn talk(child: &mut Child, component: &[u8]) -> io::Result<(Vec<u8>, String)> {
    let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let output = child.stdout.take().ok_or_else(missing)?;
    let errors = child.stderr.take().ok_or_else(missing)?;
    thread::scope(|scope| {
        // A child that refuses the component early stops reading. Its message says more than the broken pipe.
        scope.spawn(move || drop(input.write_all(component)));
        let complaint = scope.spawn(move || {
            let mut complaint = Vec::new();
            let _ = errors.take(16 << 10).read_to_end(&mut complaint);
            String::from_utf8_lossy(&complaint).into_owned()
        });
        let mut compiled = Vec::new();
        output.take(LARGEST_OUTPUT + 1).read_to_end(&mut compiled)?;
        if compiled.len() as u64 > LARGEST_OUTPUT {
            return Err(io::Error::other(format!("the compiled component has more than {LARGEST_OUTPUT} bytes")));
        }
        Ok((compiled, complaint.join().unwrap_or_default()))
    })
}

/// Returns an explanation if the hard limit leaves less address space than compiling may need.
fn shortage() -> Option<String> {
    let hard = getrlimit(Resource::As).maximum.filter(|hard| *hard < ADDRESS_SPACE)?;
    Some(format!(
        "compiling needs up to {ADDRESS_SPACE} bytes of address space, and RLIMIT_AS allows {hard}; raise it \
         (`ulimit -Hv {}` before the start, or LimitAS= of the service)",
        ADDRESS_SPACE / 1024
    ))
}

/// Runs as the child process: sets its own limits, then compiles standard input to standard output.
pub fn compile_as_child() -> ExitCode {
    match limit_self().map_err(|error| error.to_string()).and_then(|()| compile_stdio()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            let _ = writeln!(io::stderr(), "{complaint}");
            // A lack of memory says nothing about the component.
            ExitCode::from(if is_out_of_memory(&complaint) { NO_MEMORY } else { INVALID })
        }
    }
}

fn limit_self() -> io::Result<()> {
    // If this fails, the child only runs on until it is done. If the host is killed before this line, the child finds
    // no input to read.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let limit = |what: Resource, at_most: u64| {
        // A limit cannot be raised above the current hard limit.
        let at_most = Some(getrlimit(what).maximum.map_or(at_most, |hard| hard.min(at_most)));
        setrlimit(what, Rlimit { current: at_most, maximum: at_most })
    };
    // The limit is the second argument. A program that passes none has no such limit.
    if let Some(seconds) = std::env::args().nth(2).and_then(|seconds| seconds.parse().ok()) {
        limit(Resource::Cpu, seconds)?;
    }
    limit(Resource::As, ADDRESS_SPACE)?;
    limit(Resource::Core, 0)?;
    // A process that does not get a lower priority still works.
    let _ = setpriority_process(None, NICE);
    Ok(())
}

fn compile_stdio() -> Result<(), String> {
    let mut component = Vec::new();
    io::stdin().read_to_end(&mut component).map_err(|error| error.to_string())?;
    instance_memory::check(&component)?;
    let engine = Engine::new(&sandbox::configuration()).map_err(|error| format!("{error:#}"))?;
    let compiled = engine.precompile_component(&component).map_err(|error| format!("{error:#}"))?;
    io::stdout().write_all(&compiled).map_err(|error| error.to_string())
}
