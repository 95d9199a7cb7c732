def build_report(d, baseline):
    return d
