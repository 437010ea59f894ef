//! A guest of a few instructions. Where the processor's page tables are virtualised by somebody
//! else (a hypervisor in a container, PVM), KVM may create VMs and then stop at instructions that
//! every kernel uses.

use std::arch::global_asm;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What the guest's memory holds, and where: page tables that map the first 2 MiB to themselves,
/// its code, and room for it.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
const SCRATCH: u64 = 0x5000;
const MEMORY: usize = 0x10000;

/// Entries of page tables (Intel SDM 3A, 4.5): present and writable; this entry maps a page of 2
/// MiB.
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = TABLE | 1 << 7;

/// Control registers (Intel SDM 3A, 2.5): protected mode with paging, and an x87 unit; physical
/// addresses of more than 32 bits, SSE, XSAVE; long mode in EFER.
const CR0: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER: u64 = 1 << 10 | 1 << 8;

/// Where the guest says how it went, and what.
const PORT: u16 = 0x10;
const DONE: u8 = 0x2a;

/// What the processor has, and the guest tries: bits of its register R8.
const CMPXCHG16B: u64 = 1;
const XSAVE: u64 = 2;
const BMI2: u64 = 4;

global_asm!(
    ".pushsection .rodata.banger_kvm_guest, \"a\"",
    ".global banger_kvm_guest",
    ".global banger_kvm_guest_end",
    "banger_kvm_guest:",
    // A compare and exchange of 16 bytes, as the kernel's allocator does.
    "test r8d, 1",
    "jz 1f",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 0x1234",
    "xor ecx, ecx",
    "lock cmpxchg16b [rdi]",
    "jnz 9f",
    "cmp dword ptr [rdi], 0x1234",
    "jne 9f",
    "1:",
    // The state of x87 and SSE to memory and back, as at every change of task.
    "test r8d, 2",
    "jz 2f",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov eax, 3",
    "xor edx, edx",
    "xsave [rdi + 64]",
    "xrstor [rdi + 64]",
    "2:",
    // A shift of BMI2, which compilers use wherever they may.
    "test r8d, 4",
    "jz 3f",
    "mov eax, 1",
    "mov ecx, 4",
    "shlx edx, eax, ecx",
    "cmp edx, 16",
    "jne 9f",
    "3:",
    "mov al, 0x2a",
    "out 0x10, al",
    "hlt",
    "9:",
    "xor eax, eax",
    "out 0x10, al",
    "hlt",
    "banger_kvm_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    static banger_kvm_guest: u8;
    static banger_kvm_guest_end: u8;
}

/// How the guest went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has done all that it should.
    Done,
    /// KVM cannot run it.
    Stopped(String),
    /// It could not be tried, which says nothing.
    Inconclusive(String),
}

/// Runs the guest with all that this processor has. It does not return where KVM never does.
pub(super) fn run() -> Outcome {
    run_with(u64::MAX)
}

/// Runs the guest with what this processor and `features` both have.
fn run_with(features: u64) -> Outcome {
    let unclear =
        |what: &'static str| move |error: kvm_ioctls::Error| Outcome::Inconclusive(format!("{what}: {error}"));
    let set_up = || -> Result<Guest, Outcome> {
        let kvm = Kvm::new().map_err(unclear("opening KVM"))?;
        let vm = kvm.create_vm().map_err(unclear("making a VM"))?;
        let memory = Memory::new().map_err(|error| Outcome::Inconclusive(format!("memory for a VM: {error}")))?;
        let region = kvm_userspace_memory_region {
            memory_size: MEMORY as u64,
            userspace_addr: memory.0.as_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the memory is mapped for as long as the VM is there: fields are dropped in order.
        unsafe { vm.set_user_memory_region(region) }.map_err(unclear("giving a VM memory"))?;
        let vcpu = vm.create_vcpu(0).map_err(unclear("making a processor"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(unclear("asking for what KVM supports"))?;
        let features = supported(&cpuid) & features;
        vcpu.set_cpuid2(&cpuid).map_err(unclear("setting up a processor"))?;
        into_long_mode(&vcpu, features).map_err(unclear("setting up a processor"))?;
        Ok(Guest { vcpu, _vm: vm, _memory: memory })
    };
    match set_up() {
        Ok(mut guest) => guest.run(),
        Err(outcome) => outcome,
    }
}

/// A VM, dropped in this order.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Memory,
}

impl Guest {
    fn run(&mut self) -> Outcome {
        loop {
            return match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT, [DONE])) => Outcome::Done,
                Ok(VcpuExit::IoOut(PORT, _)) => {
                    Outcome::Stopped("a guest's instructions have wrong results".to_owned())
                }
                Ok(VcpuExit::InternalError) => {
                    Outcome::Stopped("KVM cannot run instructions here that every kernel uses".to_owned())
                }
                Ok(exit) => Outcome::Inconclusive(format!("a guest ended with {exit:?}")),
                Err(error) if error.errno() == Errno::EINTR as i32 => continue,
                Err(error) => Outcome::Inconclusive(format!("running a guest: {error}")),
            };
        }
    }
}

/// Of what the guest tries, what KVM says that it may.
fn supported(cpuid: &CpuId) -> u64 {
    let has = |function, bit: fn(&kvm_bindings::kvm_cpuid_entry2) -> bool| {
        cpuid.as_slice().iter().any(|entry| entry.function == function && entry.index == 0 && bit(entry))
    };
    // Intel SDM 2A, CPUID.
    let [cx16, xsave] = [has(1, |entry| entry.ecx & 1 << 13 != 0), has(1, |entry| entry.ecx & 1 << 26 != 0)];
    let bmi2 = has(7, |entry| entry.ebx & 1 << 8 != 0);
    [(cx16, CMPXCHG16B), (xsave, XSAVE), (bmi2, BMI2)].into_iter().filter(|(has, _)| *has).map(|(_, bit)| bit).sum()
}

/// Brings the processor to the code, in 64-bit mode.
fn into_long_mode(vcpu: &VcpuFd, features: u64) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let segment = |selector, type_, l| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1 - l,
        l,
        g: 1,
        ..Default::default()
    };
    // Code that is executed and read, data that is read and written.
    sregs.cs = segment(8, 11, 1);
    let data = segment(16, 3, 0);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.cr0, sregs.cr3, sregs.efer) = (CR0, PML4, EFER);
    sregs.cr4 = if features & XSAVE == 0 { CR4 } else { CR4 | CR4_OSXSAVE };
    vcpu.set_sregs(&sregs)?;
    // The bit that is always set.
    let rflags = 2;
    vcpu.set_regs(&kvm_regs { rip: CODE, rdi: SCRATCH, r8: features, rflags, ..Default::default() })
}

/// The guest's memory.
struct Memory(std::ptr::NonNull<std::ffi::c_void>);

impl Memory {
    /// Memory with page tables and code.
    fn new() -> nix::Result<Memory> {
        let length = MEMORY.try_into().expect("it is not 0");
        // SAFETY: a new mapping overlaps nothing.
        let start = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }?;
        let memory = Memory(start);
        // SAFETY: the mapping has that length, and nobody else knows it yet.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), MEMORY) };
        let mut put = |at: u64, what: &[u8]| bytes[at as usize..][..what.len()].copy_from_slice(what);
        put(PML4, &(PDPT | TABLE).to_le_bytes());
        put(PDPT, &(PD | TABLE).to_le_bytes());
        put(PD, &LARGE_PAGE.to_le_bytes());
        put(CODE, code());
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and the VM that used it is gone.
        let _ = unsafe { munmap(self.0, MEMORY) };
    }
}

fn code() -> &'static [u8] {
    // SAFETY: the two are the ends of one piece of this program's constants.
    unsafe {
        let start = &raw const banger_kvm_guest;
        let length = (&raw const banger_kvm_guest_end).offset_from(start);
        std::slice::from_raw_parts(start, usize::try_from(length).expect("the end is behind the start"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_guest_code_has_expected_start_and_size() {
        // test r8d, 1
        assert_eq!(code()[..7], [0x41, 0xf7, 0xc0, 1, 0, 0, 0]);
        assert!(code().len() < (SCRATCH - CODE) as usize && code().ends_with(&[0xe6, PORT as u8, 0xf4]));
    }

    #[test]
    fn probe_guest_without_features_completes() {
        match crate::kvm::ask_device() {
            Ok(()) => assert_eq!(run_with(0), Outcome::Done),
            Err(why) => assert!(matches!(run(), Outcome::Inconclusive(_)), "{why}"),
        }
    }
}
