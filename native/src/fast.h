#pragma once
// The border between the fast synapse kernels, compiled once an instruction set, and the rest of the engine:
// plain structures and a table of functions.

#include <cstddef>
#include <cstdint>

#include "fire.h"

namespace picojoule {

// Convolution geometry of one sample; a Linear is one tap with a pixel a token.
struct FastShape {
  int64_t channels, words;  // input channels, and 64-bit words of one packed pixel
  int64_t out_channels, padded;
  int64_t in[3], out[3], kernel[3], stride[3], before[3], dilation[3];
  int64_t pixels_in, pixels_out, taps;
};

// Spikes of all steps as lists, one an image row: byte offsets of weight rows, less a constant a window.
struct Events {
  uint32_t* list;    // [T * planes * image rows][row]
  int32_t* starts;   // [T * planes * image rows][in[2] + 1], into the list of that row
  int64_t row = 0;   // in[2] * channels, and kOverrun more that whole vectors of entries may write
};

inline constexpr int64_t kOverrun = 16;

inline constexpr int kMaxWeightPlanes = 8;  // of vertical counting

// What holds 16 bits where bytes are multiplied: whole sums, any two products, or only those of bytes below 128.
enum class ByteSums : uint8_t { sixteen, pairs, halves };

inline constexpr int64_t kByteTile = 32;  // outputs whose byte weights lie together

// Weight rows a tap and input channel: bits of output channels (vertical counting) or int8 of them.
struct FastWeights {
  const uint8_t* rows = nullptr;
  int64_t row_bytes = 0;       // from one row to the next
  int lists = 1;               // pixels that share a vector of bits
  bool shared = false;         // neighbours of a row read one window: each row of bits holds the taps of them all
  // Offset of the row that an event adds: channel * channel_step + x * pixel_step + kernel row * slice_step +
  // first x of the window * window_step + window_base, modulo 2^32 (step by step for taps that lie apart: tap_step).
  uint32_t channel_step = 0, pixel_step = 0, slice_step = 0, window_step = 0, window_base = 0, tap_step = 0;
  int planes = 1;              // bit-planes of the weights
  int64_t plane_bytes = 0;     // from one bit-plane to the next
  // Strips: the planes of a row, those of 256 outputs after the other, cut into pieces of a vector; the pieces of all
  // rows lie together (fast_strips.inl). 0: planes lie apart.
  int strips = 0;
  int64_t strip_width = 32, strip_bytes = 0;  // of a piece, and from one strip to the next
  // Where the row of one tap and channel begins.
  int64_t row_of(const FastShape& s, int64_t tap, int64_t channel) const {
    if (!shared) return (tap * s.channels + channel) * row_bytes;
    const int64_t slots = s.kernel[2] + 2 * lists - 2;
    return ((tap / s.kernel[2] * s.channels + channel) * slots + slots - lists - tap % s.kernel[2]) * row_bytes;
  }
  // Where in it the bit of one output lies.
  int64_t byte_of(int plane, int64_t output) const {
    if (!strips || shared) return plane * plane_bytes + output / 8;
    const int64_t at = (output / 256 * planes + plane) * (32 / lists) + output % 256 / 8;
    return at / strip_width * strip_bytes + at % strip_width;
  }
  uint32_t negative = 0;       // offset of the rows that negative spikes add
  uint32_t zero = 0;           // offset of a row of zeros
  int double_shift = 0;        // 1: weights are -1 and +1, the sum is twice the count less the events
  int64_t offset_positive = 0, offset_negative = 0;  // sum = (count << double_shift) - offsets * events
  int64_t byte_rows = 0, short_rows = 0;  // int8 rows whose sum fits 8 bits (0: too few to pay) and 16 bits
  ByteSums byte_sums = ByteSums::sixteen;
  // Dense bytes: [padded / kByteTile][runs][run / 4][kByteTile][4], each run cut out of one image row.
  const int8_t* quads = nullptr;
  int64_t runs = 0, run = 0;
  const int32_t* run_offsets = nullptr;  // of runs, in elements of the image from the window's first corner
  const int32_t* lift = nullptr;   // [padded], what the offset of the bytes brings
  const int16_t* pairs = nullptr;  // dense words: [runs][run / 2][padded][2]
};

// Static counting: for every output channel, weight plane and sign of the spikes, the rows whose bit is set.
struct FixedRows {
  const uint32_t* rows = nullptr;    // each list padded to a multiple of 8 with the row of zeros
  const uint32_t* starts = nullptr;  // [out_channels][weight planes][1, or 2 for ternary spikes], and the end
  int64_t chunk = 0;                 // pixels of one piece of work
  int planes = 0;                    // of the largest count
};

// Depthwise convolutions: words of padded images, channels last, and a vector of weights a block of 256 outputs (of
// all pixels of a group), weight plane and tap.
struct DepthJob {
  const std::byte* weights = nullptr;
  const int64_t* offsets = nullptr;  // of taps, in words of the image from the window's first corner
  int64_t taps = 0;                  // in vectors: nine, or a multiple of 8
  int planes = 0;                    // of the weights in two's complement
  int width = 0;                     // of sums without bias
  int64_t pixel_words = 0, image_words = 0;
  uint64_t* image = nullptr;         // [T][spike planes][padded image][pixel_words]
};

// Sums in 16 bits (lookup.inl, dot.inl), outputs side by side: rows of what their weights hold for a group of channels.
// Table lookups: four channels of a pixel are one entry of a list, the offset of their weights in units of 32 bytes,
// shifted by kPatternBits, and the pattern of their spikes. Dot products: sixteen channels are a word of 16 bits.
struct LookupRows {
  const uint8_t* rows = nullptr;    // [tap][group][block of outputs][weight plane][span]: weight bits of one output
  int64_t row_bytes = 0;            // of one tap and group
  const uint8_t* tables = nullptr;  // [pattern][16]: sum of the spikes that a nibble of weight bits picks, more `lift`
  int64_t groups = 0;               // of channels
  uint32_t group_step = 0;          // from group to group in an entry
  int spike_planes = 1, weight_planes = 1;
  int64_t together = 4;             // lookups whose sum fits a byte
  int32_t lift = 0;                 // what an entry brings too much (ternary spikes)
  int double_shift = 0;             // sum = (count << double_shift) + offset * (sum of the spikes)
  int32_t offset = 0;
  int32_t* totals = nullptr;        // [T * image rows][in[2] + 1]: spikes of the row before pixel x
  const int16_t* bias = nullptr;    // [outputs, in whole words], modulo 2^16
  // Neurons without memory: [levels][outputs, in whole words] the largest sum below level l.
  const int16_t* edges = nullptr;
  int levels = 0;
  const uint64_t* flips = nullptr;  // [out_words], outputs whose larger sums give fewer spikes
  const uint64_t* valid = nullptr;  // [out_words], outputs that exist
  bool at_once = false;  // single spikes, steady constants, leaks by shifts: membranes of all steps stay in registers
};

inline constexpr int kPatternBits = 12;

// Sums of code words in 16 bits (lookup_words.inl).
struct WordRows {
  const uint8_t* rows = nullptr;    // [channel][pair of blocks of outputs][span]: words of two outputs
  int64_t row_bytes = 0;            // of one channel
  const uint8_t* tables = nullptr;  // [spike plane][spikes of the taps][word]
  int64_t table_bytes = 0;          // of one plane
  int64_t together = 1;             // lookups whose sum fits a byte
  int double_shift = 0;             // sum = (what tables give << double_shift) - offsets * spikes
  int32_t offset_positive = 0, offset_negative = 0;
  uint8_t* image = nullptr;         // [T][spike plane][pixel][channels in whole words]: 0, or 255 for a spike
  int32_t* totals = nullptr;        // [T][pixel]: offsets * spikes
};

enum class Finish : uint8_t { raw, rows, planes, levels };

// What happens to the sums of a pixel.
struct Epilogue {
  Finish finish = Finish::raw;
  const int32_t* bias = nullptr;  // of the synapse, [padded]
  std::byte* out = nullptr;
  int64_t out_row_bytes = 0;
  // raw: element strides and storage bytes
  int64_t channel_stride = 0, pixel_stride = 0, element = 4;
  // fused neurons: packed spikes out
  int64_t out_words = 0, out_plane_words = 0;
  int out_planes = 1;
  bool ternary = false;
  int64_t first = 0, last_step = 0;  // steps seen before this call; largest t that has constants
  bool keep = false;
  std::byte* state = nullptr;
  int reset = 0;  // 0 hard, 1 soft, 2 none
  int decay_shift = 0;
  bool half_up = false;
  int levels = 1;
  // rows: neurons on integers
  const FireJob* fire = nullptr;
  FireStep fire_step = nullptr;
  // planes: [t][block][width] vectors of 32 bytes
  int width = 0;         // membrane planes
  int gain_shift = 0;
  bool leak = true, flips = false, resets_to_zero = true;
  int64_t charge_t = 0, threshold_t = 0, reset_t = 0;  // vectors from step to step (0: steady)
  const std::byte *charge_planes = nullptr, *threshold_planes = nullptr, *reset_planes = nullptr;
  // levels: planes of the level's negative, [level][block][width]
  const std::byte* level_planes = nullptr;
  int64_t blocks = 1;
  const std::byte *flip_mask = nullptr, *valid_mask = nullptr, *init_planes = nullptr;  // [block](, [width])
};

struct FastJob {
  FastShape shape;
  FastWeights weights;
  FixedRows fixed;
  DepthJob depth;
  LookupRows lookup;
  WordRows code_words;
  Events events;
  Epilogue end;
  const std::byte* in = nullptr;  // packed words or dense rows of step 0
  int64_t in_row_bytes = 0;       // 0: all steps equal, sums are made once
  int64_t in_element = 1;         // dense: storage bytes
  const uint8_t* image = nullptr;  // dense bytes: [T][padded image][channels], values less the lowest of the kind
  int64_t image_size[3] = {1, 1, 1}, image_row_bytes = 0;
  // Dense words: [T][piece][padded image][channels]; a window of one tap keeps only the pixels it reads.
  struct Words {
    int16_t* image = nullptr;
    int64_t step = 0, piece = 0;  // elements from step to step and from piece to piece
    int pieces = 1;
    bool wide = false;  // sums pass 32 bits, those of one piece do not
    int64_t skip[3] = {1, 1, 1};
  } words;
  int64_t in_channel_stride = 0, in_pixel_stride = 0;  // dense
  int in_planes = 1;
  bool in_ternary = false;
  int64_t steps = 1;
};

// Functions of one instruction set. `work` holds work_bytes(job) bytes and belongs to one worker.
struct FastTable {
  int64_t (*work_bytes)(const FastJob&);
  void (*decode)(const FastJob&, int64_t begin, int64_t end);  // image rows of all steps and planes
  void (*lay_words)(const FastJob&, int64_t begin, int64_t end);  // steps
  void (*event_bits)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // groups of `lists` pixels
  void (*event_rows)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pixels
  void (*dense_rows)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pixels
  void (*dense_bytes)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pixels
  void (*depth_bits)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // groups of `lists` pixels
  int64_t (*static_bytes)(const FastJob&);  // work of the next
  void (*static_bits)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pieces of `chunk` pixels
  int64_t static_lanes;
  int64_t (*popcount)(const uint64_t* words, int64_t n);
};

// Each exists on processors of its kind (isa.h).
extern const FastTable kFastGeneric, kFastNeon, kFastAvx2, kFastAvx512;

// Most levels of neurons without memory that the plane kernels take.
inline constexpr int kMaxLevels = 16;

// Membrane widths that the plane kernels are built for.
inline constexpr int kWidths[] = {8, 10, 12, 14, 16, 18, 20, 24, 32, 48};

}  // namespace picojoule
