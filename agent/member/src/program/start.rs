//! What a C library would bring: where the program begins and ends, and the functions on memory that the compiler calls.
//!
//! The one file of ringmesh that is not safe Rust: the first instruction of a process, its last one, and `memcpy` itself
//! cannot be. There is no crate for it that is stable, up to date and free of a C library (docs/decisions/0017). It holds no
//! decision and no loop but those over bytes.

#![allow(unsafe_code, reason = "a process begins and ends in machine code, and memcpy cannot be written with memcpy")]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the program ringmesh-member begins in machine code, which is here only for Linux on x86_64");

// System V ABI: arguments in rdi, rsi, rdx, the result in rax, the stack aligned to 16 bytes before a call; nothing here
// touches a register that belongs to the caller.
core::arch::global_asm!(
    // The process: main, then exit_group(2) with what it returns.
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "mov edi, eax",
    "mov eax, 231",
    "syscall",
    "ud2",
    // core is compiled with unwinding; a panic of this program ends it before.
    ".globl rust_eh_personality",
    "rust_eh_personality:",
    ".globl _Unwind_Resume",
    "_Unwind_Resume:",
    "ud2",
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // From behind if the target begins within the source.
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl memcmp",
    "memcmp:",
    ".globl bcmp",
    "bcmp:",
    "xor ecx, ecx",
    "3:",
    "cmp rcx, rdx",
    "je 4f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 3b",
    "ret",
    "4:",
    "xor eax, eax",
    "ret",
    ".globl strlen",
    "strlen:",
    "xor eax, eax",
    "5:",
    "cmp byte ptr [rdi + rax], 0",
    "je 6f",
    "inc rax",
    "jmp 5b",
    "6:",
    "ret",
    main = sym super::main,
);
