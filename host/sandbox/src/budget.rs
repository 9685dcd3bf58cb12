use crate::error::says;
use crate::instance::Guest;
use crate::limits::ARGUMENTS;
use crate::meter::Meter;
use crate::{CallError, Limits, Trap};
use std::time::Duration;
use wasmtime::Store;

/// The CPU time and wall time of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    cpu: Duration,
    pub(crate) deadline: Duration,
    /// The configuration keys that set them.
    cpu_setting: &'static str,
    deadline_setting: &'static str,
}

impl Budget {
    pub(crate) fn of_init(limits: &Limits) -> Self {
        let (time, setting) = (limits.init_deadline, "limits.init_deadline");
        Self { cpu: time, deadline: time, cpu_setting: setting, deadline_setting: setting }
    }

    pub(crate) fn of_poll(limits: &Limits) -> Self {
        let Limits { cpu, deadline, cpu_setting, deadline_setting, .. } = *limits;
        Self { cpu, deadline, cpu_setting, deadline_setting }
    }

    /// Makes a call, which ends at the deadline, or once its CPU time is used up.
    pub(crate) async fn spend<T>(
        self,
        meter: &Meter,
        store: &mut Store<Guest>,
        call: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let answer = tokio::time::timeout(self.deadline, meter.run(self.cpu, call(&mut *store))).await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(self.blame(error, meter, store)),
            Err(_) => Err(CallError::DeadlineExceeded {
                deadline: self.deadline,
                cpu: meter.used(),
                setting: self.deadline_setting,
            }),
        }
    }

    /// Returns the limit that the call ran into, as an error.
    fn blame(self, error: wasmtime::Error, meter: &Meter, store: &mut Store<Guest>) -> CallError {
        let interrupted = matches!(error.downcast_ref(), Some(wasmtime::Trap::Interrupt));
        if interrupted && meter.used() >= self.cpu {
            return CallError::CpuExhausted { used: meter.used(), budget: self.cpu, setting: self.cpu_setting };
        }
        let overflowed = matches!(error.downcast_ref(), Some(wasmtime::Trap::StackOverflow));
        let mut trap = Trap::from(error);
        let guest = store.data_mut();
        trap.said = guest.last_words();
        if overflowed {
            CallError::StackExhausted(trap)
        } else if trap.message.contains(says::OUTPUT) {
            // What the plugin returns is read when none of its functions runs any more.
            match trap.backtrace {
                Some(_) => CallError::ArgumentsExceeded(ARGUMENTS),
                None => CallError::OutputExceeded(guest.limits.output),
            }
        } else if says::HANDLES.iter().any(|words| trap.message.contains(words)) {
            CallError::HandlesExhausted(guest.limits.handles)
        } else if guest.ceiling.take_refusal() {
            CallError::MemoryExhausted { limit: guest.ceiling.limit(), trap }
        } else {
            CallError::Trapped(trap)
        }
    }
}
