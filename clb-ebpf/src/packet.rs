//! The packet's memory: the only file of the packet path that follows raw pointers.
//!
//! A view is handed out after one bounds check against the end of the packet, which is what the verifier wants to see,
//! and is trusted from then on. Header types have alignment 1 and no invalid bit patterns (`Plain`), so any bytes of the
//! packet are a valid view of them.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_redirect, programs::XdpContext};
use clb_common::NextHop;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{transport::Ports, verdict::Verdict};

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

plain!(EthernetAddresses, Ipv4Hdr, Ipv6Hdr, Ports, TcpHdr, UdpHdr);

// SAFETY: `repr(C, packed)`, of two arrays of bytes and an integer.
unsafe impl Plain for EthHdr {}

/// Both MAC addresses as they stand in the header. Three words and not two arrays: an array's copy becomes a call of a
/// byte-wise memmove (416 bytes of code against 160).
#[repr(C, packed)]
struct EthernetAddresses([u32; 3]);

/// One packet, from its Ethernet header to its last byte.
pub struct Packet<'a> {
    context: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context, start: context.data(), end: context.data_end() }
    }

    /// The packet's length in bytes, with its Ethernet header.
    #[inline(always)]
    pub fn length(&self) -> u64 {
        (self.end - self.start) as u64
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
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }

    /// Sends the packet to a resolved next hop: writes its MAC addresses and says which way is out.
    #[inline(always)]
    pub fn send(&self, next_hop: &NextHop) -> Verdict {
        if let Some(addresses) = self.view_mut::<EthernetAddresses>(0) {
            addresses.0 = next_hop.ethernet;
        }
        if next_hop.interface == self.ingress_interface() {
            Verdict::Transmit
        } else {
            Verdict::Redirect { interface: next_hop.interface }
        }
    }

    #[inline(always)]
    fn ingress_interface(&self) -> u32 {
        let context: *const xdp_md = self.context.ctx;
        // SAFETY: the kernel hands the program a valid context, and the verifier knows this field.
        unsafe { (*context).ingress_ifindex }
    }
}

/// Tells the kernel to send the packet out of this interface, and returns the XDP code for it.
#[inline(always)]
pub fn redirect(interface: u32) -> u32 {
    // SAFETY: the helper takes plain numbers; an index without an interface is an error of its own in the kernel.
    let action = unsafe { bpf_redirect(interface, 0) };
    action.cast_unsigned() as u32
}
