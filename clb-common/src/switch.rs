//! Values that change under traffic.
//!
//! The kernel copies an array map's element byte by byte while programs on other CPUs read it, so a value that is
//! overwritten in place can be seen half old and half new: a MAC address that nobody has, a slot table that never was. A
//! switched value is held twice. The first write fills the copy that nobody reads; the second differs from the first in
//! one byte and makes it the one that everybody reads. What must stay true: between two changes of the same element every
//! packet that saw the old copy is finished with it, so the agent lets a moment pass between changes.

macro_rules! switched {
    ($(#[$doc:meta])* $name:ident of $value:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name {
            copies: [$value; 2],
            active: u32,
        }

        impl $name {
            /// The first value.
            pub const fn new(value: $value) -> Self {
                Self { copies: [value; 2], active: 0 }
            }

            /// The value in force.
            #[inline(always)]
            pub const fn current(&self) -> &$value {
                if self.active == 0 { &self.copies[0] } else { &self.copies[1] }
            }

            /// The two writes that change it, in their order.
            #[must_use]
            pub const fn switch_to(self, value: $value) -> [Self; 2] {
                let inactive = 1 - self.active;
                let mut filled = self;
                filled.copies[inactive as usize] = value;
                let mut switched = filled;
                switched.active = inactive;
                [filled, switched]
            }
        }
    };
}

pub(crate) use switched;

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    switched!(
        /// A value of the test's own.
        Example of [u8; 8]
    );

    #[test]
    fn the_first_write_is_not_seen_and_the_second_changes_one_byte() {
        let (old, new) = ([1; 8], [2; 8]);
        for before in [Example::new(old), Example::new([0; 8]).switch_to(old)[1]] {
            let [filled, switched] = before.switch_to(new);
            assert_eq!(filled.current(), &old);
            assert_eq!(switched.current(), &new);
            let differing = filled.as_bytes().iter().zip(switched.as_bytes()).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 1);
        }
    }
}
