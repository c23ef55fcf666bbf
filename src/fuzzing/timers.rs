//! The timer wheel.

use crate::timer_wheel::model::{Model, Step};

/// Steps of one run of the timer wheel. Beyond: the rest of the bytes is ignored.
const STEPS_MAX: usize = 4_096;

/// The timer wheel beside its naive model: three bytes a step, what to do and a length of any magnitude.
pub fn timer_wheel(data: &[u8]) {
    let mut model = Model::default();
    for step in data.chunks_exact(3).take(STEPS_MAX) {
        let number = u64::from(u16::from_le_bytes([step[1], step[2]]));
        let length = number << (u32::from(step[0] >> 2) % 49);
        model.step(match step[0] & 3 {
            0 => Step::Insert { ahead: length },
            1 => Step::Advance { by: length },
            2 => Step::Cancel { pick: number as usize },
            _ if step[0] & 4 == 0 => Step::InsertPast { behind: length },
            _ => Step::Insert { ahead: number },
        });
    }
    model.assert_invariants();
}
