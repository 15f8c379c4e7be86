//! The figures as a picture: what a packet costs over the number of flows, a line for each mode, and what each stage adds.

use std::{collections::BTreeMap, fmt::Display, fs::File, path::Path};

use anyhow::anyhow;
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::{Circle, PathElement, Rectangle, Text},
    prelude::{IntoLogRange as _, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color as _, Palette as _, Palette99, WHITE},
};

use super::{
    report::{Report, Row},
    scenarios::Group,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Fails if nothing can be drawn there.
pub fn check(file: &Path) -> anyhow::Result<()> {
    File::options().append(true).create(true).open(file).map(drop).map_err(|error| cannot(file, &error))
}

/// Draws a report.
pub fn plot(report: &Report, file: &Path) -> anyhow::Result<()> {
    let cannot = |error: &dyn Display| cannot(file, error);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| cannot(&error))?;
    let (upper, lower) = area.split_vertically(SIZE.1 * 3 / 5);
    flows(report, &upper).map_err(|error| cannot(&error))?;
    ladder(report, &lower).map_err(|error| cannot(&error))?;
    area.present().map_err(|error| cannot(&error))
}

fn cannot(file: &Path, error: &dyn Display) -> anyhow::Error {
    anyhow!("cannot draw {}: {error}\nhelp: `--plot` wants a file that can be written", file.display())
}

/// A line for each scenario of clients' packets, by the number of flows.
fn flows(report: &Report, area: &Area) -> anyhow::Result<()> {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for Row { group, scenario, flows, minimum, .. } in &report.rows {
        if let (Group::Request, Some(flows)) = (group, flows)
            && scenario.contains("tcp")
        {
            lines.entry(scenario).or_default().push((f64::from(*flows), *minimum));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let top = lines.values().flatten().fold(0.0_f64, |top, &(_, cost)| top.max(cost));
    let mut chart = ChartBuilder::on(area)
        .caption("nanoseconds a packet, wrapper subtracted, by the number of flows", (FONT, 22))
        .margin(MARGIN)
        .x_label_area_size(45)
        .y_label_area_size(55)
        .build_cartesian_2d((0.8..2e6).log_scale(), 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("flows")
        .y_desc("ns")
        .x_label_formatter(&|flows| format!("{flows:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for (number, (name, points)) in lines.into_iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// A bar for each stage, from what the stages before it came to.
fn ladder(report: &Report, area: &Area) -> anyhow::Result<()> {
    let rungs: Vec<&Row> = report.rows.iter().filter(|row| row.group == Group::Ladder).collect();
    if rungs.is_empty() {
        return Ok(());
    }
    let top = rungs.iter().fold(0.0_f64, |top, rung| top.max(rung.minimum));
    let number = rungs.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("what each stage adds: dsr, TCP over IPv4, one flow", (FONT, 22))
        .margin(MARGIN)
        .x_label_area_size(30)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..number, 0.0..top * 1.2)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).y_desc("ns").light_line_style(WHITE).draw()?;
    let mut below = 0.0;
    for (place, rung) in rungs.into_iter().enumerate() {
        let (left, color) = (place as f64, Palette99::pick(place).to_rgba());
        let (low, high) = (f64::min(below, rung.minimum), f64::max(below, rung.minimum));
        chart.draw_series([Rectangle::new([(left + 0.1, low), (left + 0.9, high)], color.filled())])?;
        let label = format!("{} {:+.0}", rung.scenario, rung.minimum - below);
        chart.draw_series([Text::new(label, (left + 0.1, high + top * 0.06), (FONT, 14))])?;
        below = rung.minimum;
    }
    Ok(())
}

/// Width and height.
const SIZE: (u32, u32) = (1_000, 1_000);
const MARGIN: u32 = 15;
const FONT: &str = "sans-serif";
