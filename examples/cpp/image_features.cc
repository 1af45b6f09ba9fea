/* image_features MODEL - what an image encoder sees, at several widths in one batch: how near each one's features are to
 * the widest's. The image is a drawn one; an application brings planes of pixels from -1 to 1. */
#include <cmath>
#include <cstddef>
#include <exception>
#include <iostream>
#include <matformer.hpp>
#include <string>
#include <vector>

namespace
{

std::vector<float> rings(const mf_model_info &info)
{
    const std::size_t side = info.image_size;
    std::vector<float> pixels(info.n_channel * side * side);
    for (std::size_t i = 0; i < pixels.size(); i++) {
        const auto x = static_cast<double>(i % side), y = static_cast<double>(i / side % side);
        pixels[i] = static_cast<float>(std::sin(std::hypot(x, y) / static_cast<double>(1 + i / (side * side))));
    }
    return pixels;
}

double cosine(const float *a, const float *b, std::size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < n; i++) {
        ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
        bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return ab / std::sqrt(aa * bb);
}

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " MODEL\n";
        return 2;
    }
    const auto model = matformer::model::open(argv[1]);
    const auto info = model.info();
    const std::vector<std::string> widths = { "0.25", "0.5", "0.75", "1" };
    const auto pixels = rings(info);
    matformer::executor executor(model);
    std::vector<matformer::session> sessions;
    std::vector<matformer::submodel> views;
    std::vector<float> features(widths.size() * info.d_model);
    std::vector<mf_request> requests(widths.size());
    for (std::size_t i = 0; i < widths.size(); i++) {
        requests[i].session = sessions.emplace_back(model).get();
        requests[i].submodel = views.emplace_back(model.extract(widths[i])).get();
        requests[i].pixels = pixels.data();
        requests[i].hidden = &features[i * info.d_model];
        requests[i].hidden_capacity = info.d_model;
    }
    executor.forward(requests);
    for (std::size_t i = 0; i < widths.size(); i++)
        std::cout << "width " << widths[i] << ": cosine to the widest's "
                  << cosine(&features[i * info.d_model], &features[(widths.size() - 1) * info.d_model], info.d_model)
                  << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
