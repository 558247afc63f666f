#include "plan/hardware_profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

/// Seconds that so many units take together.
double whole_s(const RatePoint& point) { return point.x / point.per_s; }

/// Seconds a unit at x: linear in x * seconds, the time of the whole, between the points; constant before the first.
double unit_s(const std::vector<RatePoint>& points, double x) {
  FLEXGEN_CHECK(!points.empty());
  if (x <= points.front().x || points.size() == 1) {
    // A visit of fewer rows than were measured takes what the fewest take: its weights are read all the same.
    return x > 0 && x < points.front().x ? whole_s(points.front()) / x : 1 / points.front().per_s;
  }
  size_t right = 1;
  while (right + 1 < points.size() && points[right].x < x) ++right;
  const RatePoint &a = points[right - 1], &b = points[right];
  const double slope = (whole_s(b) - whole_s(a)) / (b.x - a.x);
  return std::max(whole_s(a) + slope * (x - a.x), 0.5 * x / b.per_s) / x;
}

/// The same for rates that saturate: seconds a unit, linear in 1/x between the points, constant outside.
double saturating_unit_s(const std::vector<RatePoint>& points, double x) {
  FLEXGEN_CHECK(!points.empty());
  if (x <= points.front().x) return 1 / points.front().per_s;
  if (x >= points.back().x) return 1 / points.back().per_s;
  size_t right = 1;
  while (points[right].x < x) ++right;
  const RatePoint &a = points[right - 1], &b = points[right];
  const double weight = (1 / x - 1 / a.x) / (1 / b.x - 1 / a.x);
  return 1 / a.per_s + weight * (1 / b.per_s - 1 / a.per_s);
}

const MatmulRates& rates_of(const std::vector<MatmulRates>& all, DType compute, DType weights, double width) {
  FLEXGEN_CHECK(!all.empty(), "a profile without matrix products");
  const MatmulRates* best = &all.front();
  int best_score = -1;
  auto distance = [&](const MatmulRates& rates) { return std::abs(std::log(rates.width / width)); };
  // What others quantized and was not measured is taken for int8 or int4, which are unpacked too: the one of about the size.
  if (is_shipped(weights) && std::none_of(all.begin(), all.end(), [&](const MatmulRates& rates) { return rates.weights == weights; }))
    weights =
        2 * row_bytes(weights, kLongestBlock) > row_bytes(DType::kInt8, kLongestBlock) + row_bytes(DType::kInt4, kLongestBlock) ? DType::kInt8 : DType::kInt4;
  for (const MatmulRates& rates : all) {
    // Not measured: the nearest is another 16-bit type, or the same weights computed otherwise.
    const bool same_size = row_bytes(rates.weights, kLongestBlock) == row_bytes(weights, kLongestBlock);
    const int score = (rates.weights == weights ? 4 : same_size ? 2 : 0) + (rates.compute == compute ? 1 : 0);
    if (score > best_score || (score == best_score && distance(rates) < distance(*best))) {
      best = &rates;
      best_score = score;
    }
  }
  return *best;
}

/// Of the rates of the cache's type (or the nearest in size), those below and above the number of queries.
std::pair<const AttentionRates*, const AttentionRates*> rates_around(const std::vector<AttentionRates>& all, DType cache, double queries) {
  FLEXGEN_CHECK(!all.empty(), "a profile without attention");
  auto distance = [&](const AttentionRates& rates) {
    return std::abs(std::log(static_cast<double>(row_bytes(rates.cache, kQuantGroup)) / static_cast<double>(row_bytes(cache, kQuantGroup))));
  };
  double nearest = 1e300;
  for (const AttentionRates& rates : all) nearest = std::min(nearest, distance(rates));
  const AttentionRates *below = nullptr, *above = nullptr;
  for (const AttentionRates& rates : all) {
    if (distance(rates) > nearest + 1e-9) continue;
    if (rates.queries_per_kv_head <= queries && (!below || rates.queries_per_kv_head > below->queries_per_kv_head)) below = &rates;
    if (rates.queries_per_kv_head >= queries && (!above || rates.queries_per_kv_head < above->queries_per_kv_head)) above = &rates;
  }
  if (!below) below = above;
  if (!above) above = below;
  return {below, above};
}

double between(double x, double a, double b, double at_a, double at_b) { return a == b ? at_a : at_a + (x - a) / (b - a) * (at_b - at_a); }

OrderedJson points_json(const std::vector<RatePoint>& points) {
  OrderedJson json = OrderedJson::array();
  for (const RatePoint& point : points) json.push_back({point.x, point.per_s});
  return json;
}

OrderedJson compute_json(const ComputeProfile& compute) {
  OrderedJson json{{"visit_s", compute.visit_s}, {"logit_s", compute.logit_s}, {"matmul", OrderedJson::array()}, {"attention", OrderedJson::array()}};
  for (const MatmulRates& rates : compute.matmul)
    json["matmul"].push_back({{"compute", dtype_name(rates.compute)},
                              {"weights", dtype_name(rates.weights)},
                              {"width", rates.width},
                              {"rows_to_flops_per_s", points_json(rates.points)}});
  for (const AttentionRates& rates : compute.attention)
    json["attention"].push_back({{"cache", dtype_name(rates.cache)},
                                 {"queries_per_kv_head", rates.queries_per_kv_head},
                                 {"context_to_bytes_per_s", points_json(rates.points)},
                                 {"chunk_flops_per_s", rates.chunk_flops_per_s}});
  return json;
}

/// Beyond these a number is a mistake: a unit taken for another, or a broken file.
constexpr double kMostFlops = 1e18, kMostBytes_s = 1e14, kShortest_s = 1e-15, kLongest_s = 1e4, kLargestSize = 1e9;
constexpr double kMostLoad = 1e6;       // programs that wait for a processor
constexpr int64_t kMostEntries = 1000;  // of a list, all of which are looked at for each question
constexpr double kMostSpread = 10;      // of times that only noise can have turned around
enum Least { kFrom0, kAbove0 };

/// Reads fields of one object, and knows where it is.
class Fields {
 public:
  Fields(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail_user("{}: an object is wanted here; `flexgen doctor --measure --json` shows what a profile looks like", where_);
  }
  const nlohmann::json& at(const char* name) const {
    if (!json_.contains(name)) fail_user("{}: the field '{}' is missing", where_, name);
    return json_[name];
  }
  bool has(const char* name) const { return json_.contains(name); }
  /// A finite number; above 0 not less than `smallest`.
  double number(const char* name, Least least, double smallest, double most) const {
    const nlohmann::json& value = at(name);
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!std::isfinite(number) || number < 0 || (number == 0 && least == kAbove0))
      fail_user("{}: '{}' must be a number {} 0", where_, name, least == kFrom0 ? "from" : "above");
    if (number > most || (number > 0 && number < smallest))
      fail_user("{}: '{}' is {}, which no machine has: it can be from {:g} to {:g}", where_, name, number, smallest, most);
    return number;
  }
  double bytes_per_s(const char* name) const { return number(name, kAbove0, 1, kMostBytes_s); }
  /// Seconds that one thing takes.
  double time_s(const char* name, Least least = kFrom0) const { return number(name, least, kShortest_s, kLongest_s); }
  double share(const char* name) const {
    const double share = number(name, kFrom0, 0, kMostFlops);
    if (share > 1) fail_user("{}: '{}' is {}, and must be a share from 0 to 1", where_, name, share);
    return share;
  }
  std::string text(const char* name) const {
    if (!at(name).is_string()) fail_user("{}: '{}' must be a text", where_, name);
    std::string text = at(name).get<std::string>();
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';  // a terminal obeys them
    return text;
  }
  bool flag(const char* name) const {
    if (!at(name).is_boolean()) fail_user("{}: '{}' must be true or false", where_, name);
    return at(name).get<bool>();
  }
  int64_t whole(const char* name, int64_t most) const {
    const double value = number(name, kAbove0, 1, static_cast<double>(most));
    if (value != std::floor(value)) fail_user("{}: '{}' is {}, and must be a whole number", where_, name, value);
    return static_cast<int64_t>(value);
  }
  DType dtype(const char* name) const {
    auto found = dtype_of_name(text(name));
    if (found && is_shipped(*found) && name != std::string_view("weights")) found.reset();
    if (!found) fail_user("{}: '{}' is '{}'; f32, f16, bf16, int8 or int4 is known", where_, name, printable(text(name)));
    return *found;
  }
  std::vector<RatePoint> points(const char* name, double most) const {
    std::vector<RatePoint> points;
    const nlohmann::json& list = at(name);
    if (!list.is_array() || list.empty()) fail_user("{}: '{}' must be a list of [size, per second]", where_, name);
    check_size(name);
    for (const nlohmann::json& entry : list) {
      const bool pair = entry.is_array() && entry.size() == 2 && entry[0].is_number() && entry[1].is_number();
      RatePoint point;
      if (pair) point = {entry[0].get<double>(), entry[1].get<double>()};
      if (!pair || !std::isfinite(point.x) || !std::isfinite(point.per_s) || point.x <= 0 || point.per_s <= 0 ||
          (!points.empty() && point.x <= points.back().x))
        fail_user("{}: '{}' must be a list of [size, per second], both above 0, sizes ascending", where_, name);
      if (point.x < 1 || point.x > kLargestSize || point.per_s < 1 || point.per_s > most)
        fail_user("{}: '{}' has [{}, {}], which no machine has: sizes can be from 1 to {:g}, and from 1 to {:g} a second", where_, name, point.x, point.per_s,
                  kLargestSize, most);
      if (!points.empty() && kMostSpread * whole_s(point) < whole_s(points.back()))
        fail_user("{}: '{}' has [{}, {}] and [{}, {}], which contradict each other: the larger size would take less than a {:g}th of the smaller one's time",
                  where_, name, points.back().x, points.back().per_s, point.x, point.per_s, kMostSpread);
      points.push_back(point);
    }
    return points;
  }
  void check_size(const char* name) const {
    const int64_t count = std::ssize(at(name));
    if (count > kMostEntries)
      fail_user("{}: '{}' has {} entries; it may have {}, so leave some out", where_, name, format_count(count), format_count(kMostEntries));
  }
  /// Every field is known, so that a misspelt one is found.
  void only(std::initializer_list<std::string_view> names) const {
    for (const auto& [name, value] : json_.items())
      if (std::find(names.begin(), names.end(), name) == names.end()) fail_user("{}: the field '{}' is unknown", where_, printable(name));
  }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& json_;
  std::string where_;
};

ComputeProfile compute_from(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.only({"visit_s", "logit_s", "matmul", "attention"});
  ComputeProfile compute;
  compute.visit_s = fields.time_s("visit_s");
  compute.logit_s = fields.time_s("logit_s");
  for (const char* list : {"matmul", "attention"}) {
    if (!fields.at(list).is_array() || fields.at(list).empty()) fail_user("{}: '{}' must be a list with at least one entry", where, list);
    fields.check_size(list);
  }
  for (const nlohmann::json& entry : fields.at("matmul")) {
    Fields rates(entry, where + " matmul");
    rates.only({"compute", "weights", "width", "rows_to_flops_per_s"});
    if (rates.dtype("compute") == DType::kInt4) fail_user("{}: 'compute' is 'int4', in which nothing is multiplied; int8 is the narrowest", rates.where());
    compute.matmul.push_back({rates.dtype("compute"), rates.dtype("weights"), rates.points("rows_to_flops_per_s", kMostFlops),
                              rates.has("width") ? rates.number("width", kAbove0, 1, kLargestSize) : kUsualWidth});
    const MatmulRates& last = compute.matmul.back();
    if (std::any_of(compute.matmul.begin(), compute.matmul.end() - 1, [&](const MatmulRates& other) { return same_kind(other, last); }))
      fail_user("{}: compute '{}', weights '{}', width {} is there twice; remove one of them", rates.where(), dtype_name(last.compute),
                dtype_name(last.weights), last.width);
  }
  for (const nlohmann::json& entry : fields.at("attention")) {
    Fields rates(entry, where + " attention");
    rates.only({"cache", "queries_per_kv_head", "context_to_bytes_per_s", "chunk_flops_per_s"});
    compute.attention.push_back({rates.dtype("cache"), rates.number("queries_per_kv_head", kAbove0, 1, 1e6),
                                 rates.points("context_to_bytes_per_s", kMostBytes_s), rates.number("chunk_flops_per_s", kAbove0, 1, kMostFlops)});
    const AttentionRates& last = compute.attention.back();
    if (std::any_of(compute.attention.begin(), compute.attention.end() - 1, [&](const AttentionRates& other) { return same_kind(other, last); }))
      fail_user("{}: cache '{}', queries_per_kv_head {} is there twice; remove one of them", rates.where(), dtype_name(last.cache), last.queries_per_kv_head);
  }
  return compute;
}

}  // namespace

bool same_kind(const MatmulRates& a, const MatmulRates& b) { return a.compute == b.compute && a.weights == b.weights && a.width == b.width; }
bool same_kind(const AttentionRates& a, const AttentionRates& b) { return a.cache == b.cache && a.queries_per_kv_head == b.queries_per_kv_head; }

double ComputeProfile::matmul_s(DType compute, DType weights, double width, double rows, double flops) const {
  if (flops <= 0 || rows <= 0) return 0;
  return flops * unit_s(rates_of(matmul, compute, weights, width).points, rows);
}

double ComputeProfile::decode_attention_s(DType cache, double queries_per_kv_head, double context, double bytes) const {
  if (bytes <= 0) return 0;
  auto [below, above] = rates_around(attention, cache, queries_per_kv_head);
  return bytes * between(queries_per_kv_head, below->queries_per_kv_head, above->queries_per_kv_head, saturating_unit_s(below->points, context),
                         saturating_unit_s(above->points, context));
}

double ComputeProfile::chunk_attention_s(DType cache, double queries_per_kv_head, double flops) const {
  if (flops <= 0) return 0;
  auto [below, above] = rates_around(attention, cache, queries_per_kv_head);
  return flops *
         between(queries_per_kv_head, below->queries_per_kv_head, above->queries_per_kv_head, 1 / below->chunk_flops_per_s, 1 / above->chunk_flops_per_s);
}

ComputeProfile gpu_of(double flops_per_s, double memory_bytes_per_s) {
  ComputeProfile gpu;
  MatmulRates rates{DType::kBF16, DType::kBF16, {}};
  for (double rows = 1; rows <= 4096; rows *= 2) rates.points.push_back({rows, std::min(flops_per_s, rows * memory_bytes_per_s)});
  gpu.matmul = {rates};
  gpu.attention = {{DType::kBF16, 1, {{1, memory_bytes_per_s}}, flops_per_s / 4}};
  return gpu;
}

DiskProfile limited(const DiskProfile& disk, double bytes_per_s) {
  DiskProfile less = disk;
  less.read_bytes_per_s = std::min(disk.read_bytes_per_s, bytes_per_s);
  less.write_bytes_per_s = std::min(disk.write_bytes_per_s, bytes_per_s);
  less.short_read_bytes_per_s = std::min(disk.short_read_bytes_per_s, bytes_per_s);
  // What is written is taken from what may be read; compute loses by the byte.
  less.write_share_of_read = std::max(less.write_bytes_per_s / bytes_per_s, disk.write_share_of_read * less.write_bytes_per_s / disk.write_bytes_per_s);
  less.compute_slowdown = disk.compute_slowdown * less.read_bytes_per_s / disk.read_bytes_per_s;
  return less;
}

HardwareProfile HardwareProfile::uniform(double flops_per_s, double ram_bytes_per_s, double disk_read_bytes_per_s, double disk_write_bytes_per_s) {
  HardwareProfile profile;
  profile.name = "uniform";
  profile.cpu.matmul = {{DType::kF32, DType::kBF16, {{1, flops_per_s}, {2, flops_per_s}}}};
  profile.cpu.attention = {{DType::kBF16, 1, {{1, ram_bytes_per_s}}, flops_per_s}};
  profile.cpu.logit_s = 0;
  profile.ram_read_bytes_per_s = ram_bytes_per_s;
  profile.disk.read_bytes_per_s = disk_read_bytes_per_s;
  profile.disk.write_bytes_per_s = disk_write_bytes_per_s;
  profile.disk.write_share_of_read = 0;
  profile.disk.compute_slowdown = 0;
  return profile;
}

HardwareProfile HardwareProfile::generic() {
  HardwareProfile profile = uniform(4e11, 25e9, 1.5e9, 1e9);
  profile.name = "generic";
  // Visits of few rows are limited by reading (and converting) the weights.
  profile.cpu.matmul.front().points = {{1, 1.2e10}, {16, 1.5e11}, {32, 2.6e11}, {128, 3.6e11}, {512, 4e11}, {1024, 4e11}};
  profile.disk.write_share_of_read = 0.5;
  profile.disk.compute_slowdown = 0.05;
  return profile;
}

std::optional<DType> dtype_of_name(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(kLastDType); ++i)
    if (dtype_name(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  return std::nullopt;
}

std::string to_json(const HardwareProfile& profile) {
  OrderedJson json{{"format", 1}, {"method", profile.method}, {"name", profile.name}, {"measured", profile.measured}};
  if (!profile.measured.empty()) json["load"] = {{"average", profile.load_average}, {"others_share", profile.others_share}};
  if (!profile.doubt.empty()) json["doubt"] = profile.doubt;
  if (profile.confirmed) json["confirmed"] = true;
  json["cpu"] = compute_json(profile.cpu);
  if (profile.gpu) json["gpu"] = compute_json(*profile.gpu);
  json["ram_read_bytes_per_s"] = profile.ram_read_bytes_per_s;
  json["disk"] = {{"read_bytes_per_s", profile.disk.read_bytes_per_s},
                  {"write_bytes_per_s", profile.disk.write_bytes_per_s},
                  {"request_s", profile.disk.request_s},
                  {"lookup_s", profile.disk.lookup_s},
                  {"write_share_of_read", profile.disk.write_share_of_read},
                  {"write_wait_s", profile.disk.write_wait_s},
                  {"compute_slowdown", profile.disk.compute_slowdown}};
  if (const double speed = profile.disk.short_read_bytes_per_s; speed > 0) json["disk"]["short_read_bytes_per_s"] = speed;
  json["h2d_bytes_per_s"] = profile.h2d_bytes_per_s;
  json["d2h_bytes_per_s"] = profile.d2h_bytes_per_s;
  json["copy_s"] = profile.copy_s;
  json["link_bytes_per_s"] = profile.link_bytes_per_s;
  json["link_s"] = profile.link_s;
  return json.dump(1);
}

HardwareProfile profile_from_json(const std::string& text, const std::string& source) {
  const nlohmann::json json = parse_checked_json(text, 8, source, "the hardware profile", "write it anew with `flexgen doctor --measure`");
  Fields fields(json, source);
  fields.only({"format", "method", "name", "measured", "load", "doubt", "confirmed", "cpu", "gpu", "ram_read_bytes_per_s", "disk", "h2d_bytes_per_s",
               "d2h_bytes_per_s", "copy_s", "link_bytes_per_s", "link_s"});
  if (const double format = fields.number("format", kFrom0, 0, 1e18); format != 1)
    fail_user("{}: format {}; this version reads format 1: measure anew with `flexgen doctor --measure`", source, format);
  HardwareProfile profile;
  profile.method = fields.has("method") ? static_cast<int>(fields.whole("method", 1'000'000)) : 1;
  profile.name = fields.text("name");
  profile.measured = fields.has("measured") ? fields.text("measured") : "";
  if (fields.has("load")) {
    const Fields load(fields.at("load"), source + ": load");
    load.only({"average", "others_share"});
    profile.load_average = load.number("average", kFrom0, 0, kMostLoad);
    profile.others_share = load.share("others_share");
  }
  if (fields.has("doubt")) profile.doubt = fields.text("doubt");
  if (fields.has("confirmed")) profile.confirmed = fields.flag("confirmed");
  profile.cpu = compute_from(fields.at("cpu"), source + ": cpu");
  if (fields.has("gpu")) profile.gpu = compute_from(fields.at("gpu"), source + ": gpu");
  profile.ram_read_bytes_per_s = fields.bytes_per_s("ram_read_bytes_per_s");
  Fields disk(fields.at("disk"), source + ": disk");
  disk.only(
      {"read_bytes_per_s", "write_bytes_per_s", "request_s", "lookup_s", "write_share_of_read", "write_wait_s", "short_read_bytes_per_s", "compute_slowdown"});
  profile.disk.read_bytes_per_s = disk.bytes_per_s("read_bytes_per_s");
  profile.disk.write_bytes_per_s = disk.bytes_per_s("write_bytes_per_s");
  profile.disk.request_s = disk.time_s("request_s");
  profile.disk.lookup_s = disk.time_s("lookup_s");
  profile.disk.write_share_of_read = disk.share("write_share_of_read");
  if (disk.has("write_wait_s")) profile.disk.write_wait_s = disk.time_s("write_wait_s");
  if (disk.has("short_read_bytes_per_s")) profile.disk.short_read_bytes_per_s = disk.bytes_per_s("short_read_bytes_per_s");
  profile.disk.compute_slowdown = disk.share("compute_slowdown");
  // What only machines with a GPU or several ranks have may be left out.
  for (auto [name, value] :
       {std::pair{"h2d_bytes_per_s", &profile.h2d_bytes_per_s}, {"d2h_bytes_per_s", &profile.d2h_bytes_per_s}, {"link_bytes_per_s", &profile.link_bytes_per_s}})
    if (fields.has(name)) *value = fields.bytes_per_s(name);
  for (auto [name, value] : {std::pair{"copy_s", &profile.copy_s}, {"link_s", &profile.link_s}})
    if (fields.has(name)) *value = fields.time_s(name, kAbove0);
  return profile;
}

}  // namespace flexgen
