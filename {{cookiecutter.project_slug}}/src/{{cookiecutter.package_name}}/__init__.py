"""{{ cookiecutter.description | trim }}"""
