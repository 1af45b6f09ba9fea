/* plan_svg.c - a plan as a picture: loss against cost, the plan's front as a line with the file's sizes marked, what it
 * is compared with beside it. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

enum { WIDTH = 840, HEIGHT = 520, LEFT = 80, RIGHT = 30, TOP = 56, BOTTOM = 64, LEGEND = WIDTH - 430 };

typedef struct picture {
    const plan_report *r;
    FILE *out; /* to memory */
    double low_cost, high_cost, low_loss, high_loss, unit;
} picture;

static const char *const colours[PLAN_METHODS] = { "#1f5fbf", "#d9730d", "#2e8b57", "#8a8a8a" };

static double x_of(const picture *p, double cost)
{
    return LEFT + (cost - p->low_cost) / (p->high_cost - p->low_cost) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const picture *p, double loss)
{
    return HEIGHT - BOTTOM - (loss - p->low_loss) / (p->high_loss - p->low_loss) * (HEIGHT - TOP - BOTTOM);
}

static double loss_of(const picture *p, const plan_row *row)
{
    return p->r->has_held_out ? row->held_out : row->entry.loss;
}

static void draw_text(const picture *p, double x, double y, const char *how, const char *format, ...) CLI_PRINTF(5, 6);

static void draw_text(const picture *p, double x, double y, const char *how, const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, how);
    for (const char *c = text; *c; c++)
        if (*c == '<' || *c == '>' || *c == '&')
            fprintf(p->out, *c == '<' ? "&lt;" : *c == '>' ? "&gt;" : "&amp;");
        else
            fputc(*c, p->out);
    fprintf(p->out, "</text>\n");
}

/* 1, 2 or 5 times a power of ten, so that there are about `n` steps. */
static double nice_step(double range, int n)
{
    const double raw = range / n, power = pow(10, floor(log10(raw))), share = raw / power;
    return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

static void find_ranges(picture *p)
{
    p->low_cost = p->low_loss = HUGE_VAL;
    p->high_cost = p->high_loss = -HUGE_VAL;
    for (int m = 0; m < PLAN_METHODS; m++)
        for (uint32_t i = 0; i < p->r->result[m].n_row; i++) {
            const plan_row *row = &p->r->result[m].rows[i];
            p->low_cost = fmin(p->low_cost, row->cost);
            p->high_cost = fmax(p->high_cost, row->cost);
            p->low_loss = fmin(p->low_loss, loss_of(p, row));
            p->high_loss = fmax(p->high_loss, loss_of(p, row));
        }
    const double cost_edge = 0.03 * (p->high_cost - p->low_cost) + 1e-9 * p->high_cost;
    const double loss_edge = 0.06 * (p->high_loss - p->low_loss) + 1e-9;
    p->low_cost -= cost_edge;
    p->high_cost += cost_edge;
    p->low_loss -= loss_edge;
    p->high_loss += loss_edge;
}

static void draw_axes(const picture *p)
{
    double unit;
    const char *name = plan_cost_unit(p->r->cost, &unit);
    const double dx = nice_step((p->high_cost - p->low_cost) / unit, 8), dy = nice_step(p->high_loss - p->low_loss, 6);
    for (double v = ceil(p->low_cost / unit / dx) * dx; v * unit <= p->high_cost; v += dx) {
        const double x = x_of(p, v * unit);
        fprintf(p->out, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#e4e4e4\"/>\n", x, TOP, x,
                HEIGHT - BOTTOM);
        draw_text(p, x, HEIGHT - BOTTOM + 20, "text-anchor=\"middle\"", "%.4g", v);
    }
    for (double v = ceil(p->low_loss / dy) * dy; v <= p->high_loss; v += dy) {
        const double y = y_of(p, v);
        fprintf(p->out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>\n", LEFT, y,
                WIDTH - RIGHT, y);
        draw_text(p, LEFT - 8, y + 4, "text-anchor=\"end\"", "%.4g", v);
    }
    fprintf(p->out, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, TOP, HEIGHT - BOTTOM,
            WIDTH - RIGHT);
    draw_text(p, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 16, "text-anchor=\"middle\"", "%s (%s)",
              plan_cost_name(p->r->cost), name);
    fprintf(p->out, "<g transform=\"translate(20 %d) rotate(-90)\">", (TOP + HEIGHT - BOTTOM) / 2);
    draw_text(p, 0, 0, "text-anchor=\"middle\"", "%s, nats per token", p->r->has_held_out ? "held-out loss" : "loss");
    fprintf(p->out, "</g>\n");
}

static void draw_result(const picture *p, int method)
{
    const plan_result *result = &p->r->result[method];
    fprintf(p->out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" stroke-linejoin=\"round\" points=\"",
            colours[method], method == 0 ? "2.5" : "1.2");
    for (uint32_t i = 0; i < result->n_row; i++)
        fprintf(p->out, "%.1f,%.1f ", x_of(p, result->rows[i].cost), y_of(p, loss_of(p, &result->rows[i])));
    fprintf(p->out, "\"/>\n");
    for (uint32_t i = 0; i < result->n_row; i++)
        fprintf(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n", x_of(p, result->rows[i].cost),
                y_of(p, loss_of(p, &result->rows[i])), method == 0 ? "2.8" : "2", colours[method]);
}

static void draw_sizes(const picture *p)
{
    for (uint32_t i = 0; i < p->r->n_name; i++) {
        const double x = x_of(p, p->r->name_cost[i]);
        const double y = y_of(p, p->r->has_held_out ? p->r->name_held_out[i] : p->r->name_loss[i]);
        if (!(isfinite(x) && isfinite(y))) continue;
        fprintf(p->out, "<path d=\"M%.1f %.1fl7 7l-7 7l-7 -7z\" fill=\"#fff\" stroke=\"#111\" stroke-width=\"1.8\"/>\n",
                x, y - 7);
        draw_text(p, x + 10, y - 8, "font-weight=\"bold\"", "%s", p->r->names[i]);
    }
}

static void draw_legend(const picture *p)
{
    double y = TOP + 18;
    for (int m = 0; m < PLAN_METHODS; m++) {
        const plan_result *result = &p->r->result[m];
        if (!result->name) continue;
        const double area = p->r->has_held_out ? result->held_out_hypervolume : result->hypervolume;
        fprintf(p->out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%s\"/>\n",
                LEGEND, y - 4, LEGEND + 28, y - 4, colours[m], m == 0 ? "2.5" : "1.2");
        draw_text(p, LEGEND + 36, y, "", "%s: %u evaluations, hypervolume %.4f", result->name, result->n_evaluated,
                  area / p->unit);
        y += 20;
    }
    if (p->r->n_name == 0) return;
    fprintf(p->out, "<path d=\"M%d %.1fl6 6l-6 6l-6 -6z\" fill=\"#fff\" stroke=\"#111\"/>\n", LEGEND + 14, y - 10);
    draw_text(p, LEGEND + 36, y, "", "sizes that the file names");
}

mf_status plan_write_svg(const plan_report *report, const char *path, mf_error *error)
{
    char *text = NULL;
    size_t bytes = 0;
    picture p = { .r = report, .out = open_memstream(&text, &bytes) };
    if (!p.out) return cli_fail_file(error, path);
    const char *file = strrchr(report->path, '/');
    plan_cost_unit(report->cost, &p.unit);
    find_ranges(&p);
    fprintf(p.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n<rect width=\"%d\" height=\"%d\" "
            "fill=\"#fff\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_text(&p, LEFT, 30, "font-size=\"17\" font-weight=\"bold\"", "%s: the best widths for what they cost",
              file ? file + 1 : report->path);
    draw_axes(&p);
    for (int m = PLAN_METHODS; m-- > 0;)
        if (report->result[m].name) draw_result(&p, m);
    draw_sizes(&p);
    draw_legend(&p);
    fprintf(p.out, "</svg>\n");
    const bool good = fclose(p.out) == 0 && text;
    mf_status status = good ? plan_write_text(path, text, error) : cli_fail_file(error, path);
    free(text);
    return status;
}
