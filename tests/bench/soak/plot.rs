//! A soak as a picture: memory above, the store below.

use super::samples::Sample;
use crate::common::mib;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const PANEL: f64 = 220.0;
const BETWEEN: f64 = 60.0;
const TOP: f64 = 30.0;

/// A line of a panel: its name, its colour, its values over time.
struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    of: fn(&Sample) -> f64,
}

/// The picture of a run, as SVG.
pub fn svg(samples: &[Sample]) -> String {
    let height = TOP + 2.0 * (PANEL + BETWEEN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let memory = [Line { name: "resident, MiB", colour: "#1f5fbf", of: |s| mib(s.resident_bytes) }];
    panel(&mut out, TOP, samples, &memory);
    let store = [
        Line { name: "store, MiB on disk", colour: "#b0421e", of: |s| mib(s.store_bytes) },
        Line { name: "thousands of events", colour: "#3a7d34", of: |s| s.events as f64 / 1e3 },
    ];
    panel(&mut out, TOP + PANEL + BETWEEN, samples, &store);
    out.push_str("</svg>\n");
    out
}

/// Values from nothing up to the greatest, over the minutes of the run.
fn panel(out: &mut String, top: f64, samples: &[Sample], lines: &[Line<'_>]) {
    let greatest = samples.iter().flat_map(|s| lines.iter().map(|line| (line.of)(s))).fold(1.0, f64::max);
    let (step_y, minutes) = (step(greatest), samples.last().map_or(1.0, |s| s.at / 60.0));
    let (most_y, step_x) = ((greatest / step_y).ceil() * step_y, step(minutes));
    let x = |minute: f64| LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes;
    let y = |value: f64| top + PANEL * (1.0 - value / most_y);
    for n in 0..=(most_y / step_y).round() as u32 {
        let value = f64::from(n) * step_y;
        _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#ddd\"/><text x=\"{label}\" y=\"{below:.1}\" text-anchor=\"end\">{value}</text>",
            at = y(value),
            end = WIDTH - RIGHT,
            label = LEFT - 6.0,
            below = y(value) + 4.0
        );
    }
    for n in 0..=(minutes / step_x).floor() as u32 {
        let value = f64::from(n) * step_x;
        let unit = if n == 0 { " min" } else { "" };
        _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}{unit}</text>",
            x(value),
            top + PANEL + 16.0
        );
    }
    for (n, Line { name, colour, of }) in lines.iter().enumerate() {
        let points: Vec<String> = samples.iter().map(|s| format!("{:.1},{:.1}", x(s.at / 60.0), y(of(s)))).collect();
        _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/><text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            LEFT + 180.0 * n as f64,
            top - 8.0
        );
    }
}

/// The distance of marks on an axis that ends at `most`: 1, 2 or 5 times a power of ten, four to ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|n| n * power).find(|step| most / step >= 4.0).unwrap_or(power)
}
