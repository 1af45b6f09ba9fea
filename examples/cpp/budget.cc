/* budget MODEL [BUDGET...] - asks for what may be spent instead of a width: "params<=3e6", "bytes<=6e6", "ms<=0.5". */
#include <exception>
#include <iostream>
#include <matformer.hpp>
#include <string>
#include <vector>

int main(int argc, char **argv)
try {
    if (argc < 2) {
        std::cerr << "usage: " << argv[0] << " MODEL [BUDGET...]\n";
        return 2;
    }
    const auto model = matformer::model::open(argv[1]);
    std::vector<std::string> budgets(argv + 2, argv + argc);
    if (budgets.empty()) budgets = { "params<=2e6", "params<=3e6", "bytes<=8e6", "params<=1000" };
    for (const auto &budget : budgets) {
        try {
            const auto view = model.extract(budget);
            std::cout << budget << " gets " << view.text() << ", " << view.info().n_param << " parameters\n";
        } catch (const matformer::error &error) {
            if (error.status() != MF_E_NOT_FOUND) throw;
            std::cout << budget << " gets nothing: " << error.what() << '\n';
        }
    }
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
