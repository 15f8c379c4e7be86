//! The packet's memory: the only file of the packet path that follows raw pointers into it.
//!
//! A view is handed out after one bounds check against the end of the packet, which is what the verifier wants to see,
//! and is trusted from then on. Header types have alignment 1 and no invalid bit patterns (`Plain`), so any bytes of the
//! packet are a valid view of them. Whoever moves the packet's begin or end looks at it anew: old views are stale.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{
        bpf_csum_diff, bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use clb_common::DropReason;
use network_types::{
    eth::EthHdr,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

/// Types that any bytes of a packet are a valid value of.
///
/// # Safety
///
/// Alignment 1, no padding, every bit pattern valid.
pub unsafe trait Plain {}

macro_rules! plain {
    ($($header:ty),+) => {
        $(
            const _: () = assert!(align_of::<$header>() == 1);
            // SAFETY: made of integers and byte arrays, with the alignment asserted above.
            unsafe impl Plain for $header {}
        )+
    };
}

plain!(Word, HalfWord, Byte, Ipv4Hdr, Ipv6Hdr, Icmpv4Hdr, TcpHdr, UdpHdr);

// SAFETY: `repr(C, packed)`, of two arrays of bytes and an integer.
unsafe impl Plain for EthHdr {}
// SAFETY: arrays of plain types are plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Four bytes of a packet, wherever they stand. Arrays of them are copied by words: an array of bytes becomes a call of a
/// byte-wise memmove.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Word(pub u32);

/// Two bytes of a packet.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct HalfWord(pub u16);

/// A word of two halves, in the order in which they stand in the packet.
#[inline(always)]
pub const fn join(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// One byte of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Byte(pub u8);

/// One packet, from its Ethernet header to the last byte of its linear part.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    context: &'a XdpContext,
    start: usize,
    end: usize,
    offsets: Offsets,
}

/// What the offsets of headers are, in this program.
#[derive(Clone, Copy)]
pub enum Offsets {
    /// Constants. The verifier then knows of the begin of the packet how far it may go, as the compiler does.
    Constant,
    /// Found while walking. Each look is then a pointer of its own to the verifier, which wants to see a check for each, and
    /// the compiler must not leave out those that are implied by others: so the end is read anew.
    Variable,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext, offsets: Offsets) -> Self {
        Self { context, start: context.data(), end: context.data_end(), offsets }
    }

    /// What the offsets of headers are.
    #[inline(always)]
    pub const fn offsets(&self) -> Offsets {
        self.offsets
    }

    /// The length of the linear part in bytes, with the Ethernet header. Of packets up to a page it is all there is.
    #[inline(always)]
    pub fn linear_length(&self) -> u32 {
        (self.end - self.start) as u32
    }

    /// The packet's whole length.
    #[inline(always)]
    pub fn whole_length(&self) -> u32 {
        // SAFETY: the helper takes the context that the kernel gave us.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 }
    }

    /// The header at this offset, or nothing if the packet ends before it does.
    #[inline(always)]
    pub fn view<T: Plain>(&self, offset: usize) -> Option<&'a T> {
        // SAFETY: `pointer` checked that the bytes lie in the packet, and `Plain` that any bytes are a valid `T`.
        self.pointer(offset).map(|pointer| unsafe { &*pointer })
    }

    /// The header at this offset for writing.
    ///
    /// The caller holds no other view of the same bytes: each stage asks for the headers it rewrites once.
    #[inline(always)]
    pub fn view_mut<T: Plain>(&self, offset: usize) -> Option<&'a mut T> {
        // SAFETY: as in `view`; and the program is the only one who holds the packet while it runs.
        self.pointer(offset).map(|pointer| unsafe { &mut *pointer })
    }

    #[inline(always)]
    fn pointer<T: Plain>(&self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        let end = match self.offsets {
            Offsets::Constant => self.end,
            Offsets::Variable => self.fresh_end(),
        };
        (at + size_of::<T>() <= end).then_some(at as *mut T)
    }

    #[inline(always)]
    fn fresh_end(&self) -> usize {
        let context: *const xdp_md = self.context.ctx;
        // SAFETY: the kernel hands the program a valid context, and the verifier knows this field.
        let end = unsafe { &raw const (*context).data_end };
        // SAFETY: as above. Volatile, so that the compiler does not take it for the one that it knows.
        unsafe { end.read_volatile() as usize }
    }

    /// The packet with so many more bytes before it, or fewer if negative. What stands in new bytes is not defined.
    #[inline(always)]
    pub fn grow_front(&self, bytes: isize) -> Result<Self, DropReason> {
        // SAFETY: the helper checks the number against what there is; no view of the packet is used after it.
        let failed = unsafe { bpf_xdp_adjust_head(self.context.ctx, -(bytes as i32)) };
        if failed != 0 {
            return Err(DropReason::NoHeadroom);
        }
        Ok(Self::new(self.context, self.offsets))
    }

    /// The packet cut to so many bytes.
    #[inline(always)]
    pub fn truncate(&self, length: u32) -> Option<Self> {
        let surplus = self.whole_length().checked_sub(length)?;
        // SAFETY: as in `grow_front`.
        let failed = unsafe { bpf_xdp_adjust_tail(self.context.ctx, -surplus.cast_signed()) };
        (failed == 0).then(|| Self::new(self.context, self.offsets))
    }

    /// The one's complement sum of these bytes.
    #[inline(always)]
    pub fn sum<T: Plain>(&self, offset: usize) -> Option<u32> {
        let bytes = self.pointer::<T>(offset)?;
        // SAFETY: `pointer` checked that the bytes lie in the packet; their number is a multiple of four.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), size_of::<T>() as u32, 0) };
        u32::try_from(sum).ok()
    }

    /// The index of the interface that the packet came in by.
    #[inline(always)]
    pub fn ingress_interface(&self) -> u32 {
        let context: *const xdp_md = self.context.ctx;
        // SAFETY: the kernel hands the program a valid context, and the verifier knows this field.
        unsafe { (*context).ingress_ifindex }
    }
}

/// The one's complement sum of so many bytes from this offset on, which is even, whether or not they are linear.
#[inline(always)]
pub fn sum_of(packet: &Packet, offset: u32, length: u32) -> u32 {
    // SAFETY: a program's own function, called with the program's own context.
    unsafe { clb_sum_of(packet.context.ctx, offset, length) }
}

/// A function of its own for the verifier, which would walk the loops once for every way to them.
///
/// # Safety
///
/// `context` is the one that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn clb_sum_of(context: *mut xdp_md, offset: u32, length: u32) -> u32 {
    let mut at = offset;
    let mut left = length;
    let mut sum = 0;
    let mut chunks = 0;
    while chunks < MOST_CHUNKS && left >= CHUNK_WORDS as u32 * 4 {
        // SAFETY: the caller's promise.
        let Some(chunk) = (unsafe { load::<CHUNK_WORDS>(context, at, CHUNK_WORDS as u32 * 4) }) else { break };
        sum = sum_words(chunk, sum);
        at += CHUNK_WORDS as u32 * 4;
        left -= CHUNK_WORDS as u32 * 4;
        chunks += 1;
    }
    // What is left is shorter than a chunk.
    let mut words = 0;
    while words < CHUNK_WORDS && left >= 4 {
        // SAFETY: the caller's promise.
        let Some(word) = (unsafe { load::<1>(context, at, 4) }) else { break };
        sum = sum_words(word, sum);
        at += 4;
        left -= 4;
        words += 1;
    }
    // Up to three bytes, the lengths being constants for the verifier.
    let rest = match left {
        // SAFETY: the caller's promise.
        3 => unsafe { load(context, at, 3) },
        // SAFETY: the caller's promise.
        2 => unsafe { load(context, at, 2) },
        // SAFETY: the caller's promise.
        1 => unsafe { load(context, at, 1) },
        _ => None,
    };
    match rest {
        Some(rest) => sum_words::<1>(rest, sum),
        None => sum,
    }
}

/// So many bytes of the packet, behind which the words are filled with zeros; nothing if the packet ends before.
#[inline(always)]
unsafe fn load<const WORDS: usize>(context: *mut xdp_md, at: u32, bytes: u32) -> Option<[u32; WORDS]> {
    let mut words = MaybeUninit::<[u32; WORDS]>::uninit();
    // Not where the helper writes all of them: zeros for an array are a loop over its bytes.
    if (bytes as usize) < size_of::<[u32; WORDS]>() {
        words.write([0; WORDS]);
    }
    // SAFETY: the helper writes as many bytes as it is told to, which the words have.
    let failed = unsafe { bpf_xdp_load_bytes(context, at, words.as_mut_ptr().cast(), bytes) };
    // SAFETY: all of it was written, here or by the helper.
    (failed == 0).then(|| unsafe { words.assume_init() })
}

#[inline(always)]
fn sum_words<const WORDS: usize>(mut words: [u32; WORDS], sum: u32) -> u32 {
    // SAFETY: the helper reads the words.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words.as_mut_ptr(), WORDS as u32 * 4, sum) };
    sum.cast_unsigned() as u32
}

/// As many as a jumbo frame has.
const MOST_CHUNKS: u32 = 9_216 / (4 * CHUNK_WORDS as u32);
const CHUNK_WORDS: usize = 16;

/// Tells the kernel to send the packet out of this interface, if the program then says that it is redirected.
#[inline(always)]
pub fn redirect(interface: u32) {
    // SAFETY: the helper takes plain numbers; an index without an interface is an error of its own in the kernel, later.
    let _ = unsafe { bpf_redirect(interface, 0) };
}
