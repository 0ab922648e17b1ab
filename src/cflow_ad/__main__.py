"""`python -m cflow_ad` is `cflow-ad`."""

from cflow_ad.cli import main

if __name__ == "__main__":
    main()
