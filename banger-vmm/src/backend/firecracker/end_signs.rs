//! Why a Firecracker ended.
//!
//! Its exit status does not tell: a guest that switches itself off, one that resets itself and one
//! whose kernel panics all end it with 0, and so does now and then a processor that KVM could not
//! run. The guest's console tells the first from the others, where its agent did not, and
//! Firecracker's log the last.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use banger_util::text::printable;

use crate::backend::VmmEvent;
use crate::console;
use crate::error::{Failure, FailureKind};

/// As much of a line is looked at and kept, in bytes,
const MAX_LINE: usize = 512;
/// and as many lines of the log are kept.
const LOG_LINES: usize = 4;
/// What Firecracker logs when KVM gives up on a processor: an instruction that it would have to
/// emulate, and cannot.
const KVM_GAVE_UP: &str = "KVM_EXIT_INTERNAL_ERROR";
/// What it logs of a triple fault, which is a way to reset a machine.
const TRIPLE_FAULT: &str = "KVM_EXIT_SHUTDOWN";

/// What has been seen of how a Firecracker and its guest end.
#[derive(Debug, Default)]
pub(super) struct EndSigns {
    /// What the guest's kernel said last of its end.
    kernel: Option<KernelEnd>,
    console: Line,
    log: Line,
    /// The last warnings and errors of the log, printable.
    complaints: VecDeque<String>,
    kvm_gave_up: bool,
    had_triple_fault: bool,
}

/// What a guest's kernel says of its end, on its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelEnd {
    Panicked,
    Reset,
    PoweredOff,
}

impl KernelEnd {
    /// Reads kernel/reboot.c's and kernel/panic.c's lines, which no log level silences.
    fn read(line: &[u8]) -> Option<KernelEnd> {
        let text = without_time(line).trim_ascii();
        if text.starts_with(b"Kernel panic - not syncing") {
            return Some(KernelEnd::Panicked);
        }
        match text {
            b"reboot: Power down" | b"reboot: Power off not available: System halted instead" => {
                Some(KernelEnd::PoweredOff)
            }
            _ => text.starts_with(b"reboot: Restarting system").then_some(KernelEnd::Reset),
        }
    }
}

/// A line without the time that the kernel puts before it: `[    0.123456] `.
fn without_time(line: &[u8]) -> &[u8] {
    let end = line.first().filter(|&&byte| byte == b'[').and_then(|_| line.iter().position(|&byte| byte == b']'));
    end.map_or(line, |end| &line[end + 1..])
}

impl EndSigns {
    /// Looks at what the guest wrote on its console.
    pub(super) fn see_console(&mut self, bytes: &[u8]) {
        let kernel = &mut self.kernel;
        self.console.each(bytes, |line| *kernel = KernelEnd::read(line).or(*kernel));
    }

    /// Looks at what Firecracker wrote to its log.
    pub(super) fn see_log(&mut self, bytes: &[u8]) {
        let EndSigns { complaints, kvm_gave_up, had_triple_fault, .. } = self;
        self.log.each(bytes, |line| {
            let line = printable(line);
            // `TIME [ID:THREAD:LEVEL] TEXT`, with `--show-level`.
            let Some((head, text)) = line.split_once("] ") else { return };
            *kvm_gave_up |= text.contains(KVM_GAVE_UP);
            *had_triple_fault |= text.contains(TRIPLE_FAULT);
            if head.ends_with(":ERROR") || head.ends_with(":WARN") {
                complaints.push_back(text.to_owned());
                complaints.drain(..complaints.len().saturating_sub(LOG_LINES));
            }
        });
    }

    /// What a Firecracker that ended so tells of its guest, if anything, and of itself. `stderr` is
    /// the end of what it wrote there.
    pub(super) fn end(&self, status: Option<ExitStatus>, stderr: &[u8]) -> (Option<VmmEvent>, Failure) {
        if self.kvm_gave_up {
            let message = "KVM of this machine cannot run the guest (Firecracker: KVM_EXIT_INTERNAL_ERROR)";
            return (None, Failure::new(message).of_kind(FailureKind::KvmUnfit));
        }
        let is_of_guest = status.as_ref().is_some_and(ExitStatus::success);
        let kernel = self.kernel.or(self.had_triple_fault.then_some(KernelEnd::Reset));
        let event = kernel.filter(|_| is_of_guest).map(|kernel| match kernel {
            KernelEnd::PoweredOff => VmmEvent::PoweredOff,
            KernelEnd::Reset | KernelEnd::Panicked => VmmEvent::Reset,
        });
        (event, self.failure(status, stderr))
    }

    fn failure(&self, status: Option<ExitStatus>, stderr: &[u8]) -> Failure {
        let how = status.map_or_else(|| "its exit status is unknown".to_owned(), |status| status.to_string());
        let code = status.and_then(|status| status.code());
        // vmm/src/lib.rs, `FcExitCode`.
        let (meaning, hint) = match code {
            Some(0) => {
                let message = "the guest ended, and did not say why: it reset itself, or its kernel crashed";
                return Failure::new(message);
            }
            Some(148) => {
                (": it made a system call that its filter forbids", Some("install another version of Firecracker"))
            }
            Some(149) => (
                ": a page of the guest's memory or of a file could not be had",
                Some("free some disk space and memory on this machine"),
            ),
            _ => ("", None),
        };
        let complaints: Vec<_> = self.complaints.iter().map(String::as_str).collect();
        let complaint = match complaints.is_empty() {
            false => complaints.join("; "),
            true => console::last_lines(stderr, LOG_LINES).join("; "),
        };
        let complaint = if complaint.is_empty() { complaint } else { format!(": {complaint}") };
        let is_without_memory = complaint.contains("Cannot allocate memory") || complaint.contains("os error 12");
        let hint = hint.or(is_without_memory.then_some("give the VM less memory, or free some on this machine"));
        let killed = status.and_then(|status| status.signal()) == Some(9);
        let hint =
            hint.or(killed.then_some("if nobody killed it, this machine is short of memory: see `journalctl -k`"));
        let failure = Failure::new(format!("Firecracker ended ({how}){meaning}{complaint}"));
        Failure { hint: hint.map(str::to_owned), ..failure }
    }
}

/// A line that is being written. Of a long one, the beginning is kept.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Line {
    /// Gives each line that ends in these bytes to `see`.
    fn each(&mut self, bytes: &[u8], mut see: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = MAX_LINE - self.0.len();
            self.0.extend(&text[..text.len().min(room)]);
            if part.ends_with(b"\n") {
                see(&self.0);
                self.0.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: i32 = 0;

    /// What an end with this wait status means, after this on console and log.
    fn end(status: i32, console: &str, log: &str) -> (Option<VmmEvent>, Failure) {
        let mut signs = EndSigns::default();
        // However it arrives.
        console.as_bytes().chunks(3).for_each(|bytes| signs.see_console(bytes));
        log.as_bytes().chunks(7).for_each(|bytes| signs.see_log(bytes));
        signs.end(Some(ExitStatus::from_raw(status)), b"Error: on stderr\n")
    }

    #[test]
    fn console_tells_power_off_from_reset_and_panic() {
        for (console, event) in [
            ("hello\r\n[    1.5] reboot: Power down\r\n", VmmEvent::PoweredOff),
            ("[    1.500000] reboot: Restarting system\r\n", VmmEvent::Reset),
            ("reboot: Restarting system with command 'x'\n", VmmEvent::Reset),
            (
                "[   12.3] Kernel panic - not syncing: Attempted to kill init!\r\n[   12.4] ---[ end\r\n",
                VmmEvent::Reset,
            ),
        ] {
            assert_eq!(end(OK, console, "").0, Some(event), "{console}");
        }
    }

    #[test]
    fn exit_status_0_alone_is_neither_power_off_nor_reset() {
        for console in
            ["", "login:\n", "echo reboot: Power down\n", "reboot: Power down", "no Kernel panic - not syncing\n"]
        {
            let (event, failure) = end(OK, console, "");
            assert_eq!(event, None, "{console}");
            assert!(failure.message.starts_with("the guest ended, and did not say why"), "{failure:?}");
        }
        // A guest that said so and then went on until Firecracker failed.
        assert_eq!(end(256, "reboot: Power down\n", "").0, None);
    }

    #[test]
    fn triple_fault_is_a_reset_unless_the_kernel_said_more() {
        let log = "2026 [x:fc_vcpu 0:INFO] Received KVM_EXIT_SHUTDOWN signal\n";
        assert_eq!(end(OK, "hello\n", log).0, Some(VmmEvent::Reset));
        assert_eq!(end(OK, "reboot: Power down\n", log).0, Some(VmmEvent::PoweredOff));
    }

    #[test]
    fn kvm_that_gave_up_is_unfit_whatever_the_exit_status() {
        let log = "2026-11-30T08:55:03.9 [x:fc_vcpu 0:ERROR] Received KVM_EXIT_INTERNAL_ERROR signal\n";
        for status in [OK, 256] {
            let (event, failure) = end(status, "reboot: Power down\n", log);
            assert_eq!((event, failure.kind), (None, FailureKind::KvmUnfit));
        }
        // The guest's console is not the log.
        assert_eq!(end(OK, log, "").1.kind, FailureKind::Other);
    }

    #[test]
    fn last_complaints_of_the_log_are_quoted_printably() {
        let line = |level: &str, text: &str| format!("2026 [x:main:{level}] {text}\n");
        let log: String = (0..9).map(|n| line("WARN", &format!("number {n}"))).collect();
        let log = log + &line("INFO", "chatter") + &line("ERROR", "the \x1b last") + "half a line";
        let failure = end(256, "", &log).1;
        assert_eq!(failure.message, "Firecracker ended (exit status: 1): number 6; number 7; number 8; the ^[ last");
        assert_eq!(end(256, "", "").1.message, "Firecracker ended (exit status: 1): Error: on stderr");
    }

    #[test]
    fn exit_statuses_with_a_known_cause_have_a_hint() {
        for (status, part, hint) in [
            (148 << 8, "a system call that its filter forbids", "another version"),
            (149 << 8, "could not be had", "disk space"),
            (9, "signal: 9", "short of memory"),
        ] {
            let failure = end(status, "", "").1;
            assert!(failure.message.contains(part) && failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
        }
        let log = "2026 [x:main:ERROR] Cannot create memory: Cannot allocate memory (os error 12)\n";
        assert!(end(256, "", log).1.hint.unwrap().contains("less memory"));
    }

    #[test]
    fn endless_lines_do_not_take_memory() {
        let mut signs = EndSigns::default();
        for _ in 0..1000 {
            signs.see_console(&[b'x'; 4096]);
            signs.see_log(&[b'x'; 4096]);
        }
        assert!(signs.console.0.len() <= MAX_LINE && signs.log.0.len() <= MAX_LINE);
        signs.see_console(b"\nreboot: Power down\n");
        assert_eq!(signs.end(Some(ExitStatus::from_raw(OK)), b"").0, Some(VmmEvent::PoweredOff));
    }
}
