//! How much the spool may take, and how much of its disk it leaves free. Pure.

/// Free space of the spool's disk that the spool never takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpoolReserve {
    /// Hundredths of the disk. At least `MOST_FLOOR`; where that would be more than half of what there is room for, at
    /// least that half; and never less than `FLOOR`.
    Percent(u8),
    Bytes(u64),
}

impl SpoolReserve {
    /// The least that a percentage reserves of any disk, in bytes.
    pub const FLOOR: u64 = 64 << 20;
    /// The least that it reserves where there is room.
    pub const MOST_FLOOR: u64 = 1 << 30;

    /// Bytes to leave free on a disk of `disk_bytes`, where `room` bytes are free or held by the spool. What the spool holds
    /// counts, so that the reserve does not shrink as it fills.
    pub fn of_disk(self, disk_bytes: u64, room: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                let share = u128::from(disk_bytes) * u128::from(percent) / 100;
                let floor = (room / 2).clamp(Self::FLOOR, Self::MOST_FLOOR);
                u64::try_from(share).unwrap_or(u64::MAX).max(floor)
            }
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// How much the spool may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpoolLimits {
    /// Bytes of all databases together.
    pub bytes: u64,
    /// Free space of its disk that it never takes.
    pub reserve: SpoolReserve,
}

/// What the spool's disk has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpoolRoom {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of them that the spool never takes.
    pub reserve: u64,
    /// Bytes that the spool may still take, by its own bound as well.
    pub left: u64,
    /// Its bound.
    pub limit: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_reserve_follows_the_disk_and_leaves_room_on_a_small_one() {
        for (disk, room, reserve) in [
            // Five hundredths are more than any floor.
            (100 * GIB, 50 * GIB, 5 * GIB),
            (100 * GIB, 900 * MIB, 5 * GIB),
            (20 * GIB, 10 * GIB, GIB),
            // One GiB at least, where it leaves as much.
            (10 * GIB, 9 * GIB, GIB),
            (10 * GIB, 2 * GIB, GIB),
            (10 * GIB, 1200 * MIB, 600 * MIB),
            (10 * GIB, 900 * MIB, 512 * MIB),
            (GIB, 500 * MIB, 250 * MIB),
            (GIB, 100 * MIB, 64 * MIB),
            (200 * MIB, 150 * MIB, 75 * MIB),
            // There is no room, and it is said.
            (40 * MIB, 30 * MIB, 64 * MIB),
        ] {
            let found = SpoolReserve::Percent(5).of_disk(disk, room);
            assert_eq!(found, reserve, "{disk} with {room}");
        }
        assert_eq!(SpoolReserve::Percent(0).of_disk(u64::MAX, u64::MAX), GIB);
        assert_eq!(SpoolReserve::Percent(100).of_disk(u64::MAX, 0), u64::MAX);
        assert_eq!(SpoolReserve::Bytes(7).of_disk(100 * GIB, 0), 7);
    }
}
